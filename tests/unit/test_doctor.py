"""Each thing that would make a run fail is found, with its mend."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from app.doctor import Check, Machine, examine
from app.settings import Settings

GOOD = {"podman": "podman version 4.3.1", "scontrol": "Slurmctld(primary) is UP"}


def machine(root: Path, *, uid: int = 0, missing: Sequence[str] = (), **outputs: str) -> Machine:
    for name in ("subuid", "subgid"):
        (root / "etc").mkdir(exist_ok=True)
        (root / "etc" / name).write_text("ada:100000:65536\n")
    answers = {**GOOD, **outputs}

    def output(command: Sequence[str]) -> tuple[int, str]:
        text = answers.get(Path(command[0]).name)
        return (0, text) if text is not None else (1, "no")

    return Machine(
        which=lambda name: None if name in missing else f"/usr/bin/{name}",
        output=output,
        uid=uid,
        user="ada",
        root=root,
        free_bytes=lambda _: 50 * 1024**3,
    )


def verdicts(checks: Sequence[Check]) -> dict[str, str]:
    return {check.name: check.verdict for check in checks}


def test_a_good_machine_has_no_errors(tmp_path: Path) -> None:
    checks = examine(Settings(data_dir=tmp_path), machine(tmp_path))
    assert "error" not in verdicts(checks).values()


@pytest.mark.parametrize(
    ("settings", "missing", "name", "text"),
    [
        ({}, ["podman"], "podman", "no sandbox can start"),
        ({"scheduler": "slurm"}, ["sbatch"], "scheduler", "sbatch is missing"),
        ({"train_python": Path("/nowhere/python3.9")}, [], "training environment", "no"),
    ],
)
def test_what_is_missing_is_an_error_with_a_mend(
    tmp_path: Path, settings: dict[str, object], missing: list[str], name: str, text: str
) -> None:
    made = Settings.model_validate({"data_dir": tmp_path, **settings})
    found = {c.name: c for c in examine(made, machine(tmp_path, missing=missing))}[name]
    assert found.verdict == "error"
    assert text in found.text
    assert found.mend


def test_a_user_without_subordinate_ids_is_told_the_command(tmp_path: Path) -> None:
    made = machine(tmp_path, uid=1000)
    (tmp_path / "etc" / "subgid").write_text("bob:100000:65536\n")
    found = {c.name: c for c in examine(Settings(data_dir=tmp_path), made)}["subordinate ids"]
    assert "usermod --add-subuids" in found.mend


def test_hybrid_cgroups_are_an_error_for_ordinary_users_only(tmp_path: Path) -> None:
    unified = tmp_path / "sys/fs/cgroup/unified"
    unified.mkdir(parents=True)
    (unified / "cgroup.procs").write_text("")
    settings = Settings(data_dir=tmp_path)
    assert verdicts(examine(settings, machine(tmp_path)))["cgroups"] == "ok"
    assert verdicts(examine(settings, machine(tmp_path, uid=1000)))["cgroups"] == "error"


def test_auto_takes_the_local_scheduler_where_slurm_is_missing_and_says_why(
    tmp_path: Path,
) -> None:
    made = machine(tmp_path, missing=["sbatch"])
    found = {c.name: c for c in examine(Settings(data_dir=tmp_path), made)}["scheduler"]
    assert found.text.startswith("local (auto: sbatch and squeue are not on PATH)")


def test_a_database_on_a_network_file_system_is_an_error_unless_it_lies_elsewhere(
    tmp_path: Path,
) -> None:
    made = machine(tmp_path)
    (tmp_path / "proc/self").mkdir(parents=True)
    mounts = f"1 0 0:1 / / rw - ext4 /dev/sda rw\n2 1 0:2 / {tmp_path} rw - nfs4 server:/x rw\n"
    (tmp_path / "proc/self/mountinfo").write_text(mounts)
    found = {c.name: c for c in examine(Settings(data_dir=tmp_path), made)}["database"]
    assert (found.verdict, "SKYDECK_DATABASE_URL" in found.mend) == ("error", True)
    for url in ("sqlite:////var/tmp/skydeck.db", "postgresql+psycopg://ada:secret@host/skydeck"):
        checks = examine(Settings(data_dir=tmp_path, database_url=url), made)
        assert verdicts(checks)["database"] == "ok"
        assert "secret" not in str(checks)
