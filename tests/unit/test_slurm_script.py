"""The batch script is read by two parsers, Slurm's and bash: neither may be led astray."""

import re
import string
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm.port import BatchJob, Resources, SubmitCategory, SubmitRejected
from slurm.script import render

GOLDEN = Path(__file__).parents[1] / "golden"

PLAIN = BatchJob(
    name="sd-lab-r7-a1-trainer0-g1",
    command=("/opt/skydeck/bin/python", "-m", "workers.training"),
    workdir=Path("/data/runs/r7/a1"),
    log_path=Path("/data/runs/r7/a1/trainer0-g1.log"),
    exit_record=Path("/data/runs/r7/a1/exit.trainer0-g1.json"),
    environment={
        "SKYDECK_ROLE": "trainer",
        "SKYDECK_ATTEMPT_FILE": "/data/runs/r7/a1/attempt.json",
    },
    exit_record_fields={"contract_version": 1, "run_id": "r7", "attempt": 1, "role": "trainer"},
)

ODD = replace(
    PLAIN,
    command=("/opt/it's here/python", "-c", 'print("$HOME `id`")\n#SBATCH --uid=0'),
    workdir=Path("/data/été #1/100% & more"),
    log_path=Path("/data/été #1/100%j.log"),
    environment={"ODD": "a 'b' \\ \n c"},
    comment="run=r7; attempt=1",
    resources=Resources(
        partition="gpu_test",
        account="rl",
        qos="normal",
        nodes=2,
        cpus=8,
        memory_mb=6000,
        gres="gpu:mig:1",
        time_limit_s=61,
        exclude_nodes=("cpu1", "gpu[1-2]"),
        constraint="cpu&fast",
    ),
)

OPTIONS = {
    "job-name",
    "output",
    "open-mode",
    "chdir",
    "export",
    "no-requeue",
    "comment",
    "nodes",
    "ntasks-per-node",
    "cpus-per-task",
    "mem",
    "time",
    "partition",
    "account",
    "qos",
    "gres",
    "constraint",
    "exclude",
}


@pytest.mark.parametrize(("job", "golden"), [(PLAIN, "plain"), (ODD, "odd")])
def test_the_script_is_the_golden_one(job: BatchJob, golden: str) -> None:
    assert render(job) == (GOLDEN / f"slurm_job_{golden}.sh").read_text()


def test_what_looks_like_an_option_after_the_first_command_is_not_one() -> None:
    assert "uid" not in options_that_slurm_reads(render(ODD))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "a,b"},
        {"name": "a b"},
        {"name": "x" * 201},
        {"name": "sd\n"},
        {"command": ()},
        {"command": ("/data/a=b/python",)},
        {"command": ("python", "a\0b")},
        {"workdir": Path("relative")},
        {"workdir": Path("/a\nb")},
        {"log_path": Path('/a"b.log')},
        {"log_path": Path("/a\\b.log")},
        {"exit_record": Path("relative.json")},
        {"environment": {"A B": "x"}},
        {"environment": {"A": "\ud800"}},
        {"comment": "a\n#SBATCH --uid=0"},
        {"comment": 'a" --uid=0 "'},
        {"resources": Resources(partition="a --uid=0")},
        {"resources": Resources(account="a\nb")},
        {"resources": Resources(qos="")},
        {"resources": Resources(gres="gpu:1 --uid=0")},
        {"resources": Resources(constraint='a"b')},
        {"resources": Resources(exclude_nodes=("a b",))},
        {"resources": Resources(memory_mb=0)},
        {"resources": Resources(time_limit_s=-1)},
    ],
)
def test_what_cannot_be_written_safely_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SubmitRejected, match="choose a plainer one") as refusal:
        render(replace(PLAIN, **changes))
    assert refusal.value.category is SubmitCategory.SCRIPT


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
JOBS = st.builds(
    BatchJob,
    name=st.one_of(st.text(string.ascii_letters + "-._0", min_size=1, max_size=20), ANY_TEXT),
    command=st.lists(ANY_TEXT, max_size=3).map(tuple),
    workdir=ANY_TEXT.map(lambda text: Path("/" + text.replace("\0", ""))),
    log_path=ANY_TEXT.map(lambda text: Path("/tmp/" + text.replace("\0", ""))),
    exit_record=ANY_TEXT.map(lambda text: Path("/tmp/" + text.replace("\0", ""))),
    environment=st.dictionaries(st.sampled_from(["A", "B_1", "x"]), ANY_TEXT, max_size=2),
    comment=ANY_TEXT,
    resources=st.builds(
        Resources,
        partition=st.none() | ANY_TEXT,
        account=st.none() | ANY_TEXT,
        gres=st.none() | ANY_TEXT,
        constraint=st.none() | ANY_TEXT,
        cpus=st.integers(-1, 4),
    ),
)


@given(job=JOBS)
@settings(deadline=None)
def test_a_script_sets_our_options_and_no_other_whatever_the_fields_say(job: BatchJob) -> None:
    try:
        script = render(job)
    except SubmitRejected:
        return
    read = options_that_slurm_reads(script)
    assert set(read) <= OPTIONS
    assert read["job-name"] == job.name
    assert read["output"].replace("%%", "%") == str(job.log_path)
    assert read["chdir"] == str(job.workdir)


@given(words=st.lists(ANY_TEXT.filter(lambda t: "\0" not in t), min_size=1), value=ANY_TEXT)
@settings(deadline=None, max_examples=25)
def test_bash_hands_the_worker_exactly_these_words(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], value: str
) -> None:
    folder = tmp_path_factory.mktemp("it's # $odd é")
    value = value.replace("\0", "")
    job = replace(
        PLAIN,
        command=("/usr/bin/env", "printf", "%s\\0", *words),
        workdir=folder,
        log_path=folder / "log",
        exit_record=folder / "exit.json",
        environment={"VALUE": value},
    )
    result = subprocess.run(["bash"], input=render(job).encode(), capture_output=True, check=True)
    assert result.stdout.decode().split("\0")[:-1] == words
    assert result.stderr == b""


def options_that_slurm_reads(script: str) -> dict[str, str]:
    """As sbatch does: #SBATCH lines until the first line that is no comment."""
    found: dict[str, str] = {}
    for line in script.split("\n")[1:]:
        if line.strip() and not line.startswith("#"):
            return found
        if line.startswith("#SBATCH"):
            for word in _words(line.removeprefix("#SBATCH")):
                option, _, value = word.removeprefix("--").partition("=")
                assert word.startswith("--")
                found[option] = value
    return found


def _words(text: str) -> list[str]:
    """Words split at white space outside quotes; a '#' that begins a word ends the line."""
    words = re.findall(r'(?:"(?:\\.|[^"\\])*"|\'[^\']*\'|\\.|[^\s"\'])+', text)
    cut = next((i for i, word in enumerate(words) if word.startswith("#")), len(words))
    return [re.sub(r'"((?:\\.|[^"\\])*)"', r"\1", word) for word in words[:cut]]
