"""BatchJob -> batch script. Every text is validated or quoted; nothing in it is secret."""

import json
import re
import shlex
from pathlib import Path

import jinja2

from slurm.port import BatchJob, Resources, SubmitCategory, SubmitRejected

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
"""A job's name: no comma (Slurm's searches split there), no separator of any output format."""

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]*")
_GRES = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:,=-]*")
_CONSTRAINT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._&|*()\[\]-]*")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\[\],-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COMMENT = re.compile(r"[A-Za-z0-9 ._:;=,/@+-]*")


def render(job: BatchJob) -> str:
    """The script of ``job``: deterministic, so that it can be shown, stored and compared.

    Raises SubmitRejected if a field cannot be written safely; nothing is ever silently changed.
    """
    _check(job)
    return _TEMPLATE.render(
        options=_options(job),
        exit_record=shlex.quote(str(job.exit_record)),
        workdir=shlex.quote(str(job.workdir)),
        assignments=[f"{k}={shlex.quote(v)}" for k, v in sorted(job.environment.items())],
        command=shlex.join(job.command),
        exit_fields=shlex.quote(_exit_fields(job)),
    )


def check_name(name: str) -> str:
    """``name`` itself if a scheduler can find it again by this name, else ValueError."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"job name {name!r}: use letters, digits, '.', '_' and '-', at most 200 of them"
        )
    return name


def _options(job: BatchJob) -> list[str]:
    return [
        f"--job-name={job.name}",
        f'--output="{str(job.log_path).replace("%", "%%")}"',
        "--open-mode=append",
        f'--chdir="{job.workdir}"',
        "--export=NONE",
        "--no-requeue",
        *([f'--comment="{job.comment}"'] if job.comment else []),
        *_resource_options(job.resources),
    ]


def _resource_options(want: Resources) -> list[str]:
    optional = {
        "partition": want.partition,
        "account": want.account,
        "qos": want.qos,
        "gres": want.gres,
        "constraint": f'"{want.constraint}"' if want.constraint else None,
        "exclude": ",".join(want.exclude_nodes) or None,
    }
    return [
        f"--nodes={want.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={want.cpus}",
        f"--mem={want.memory_mb}M",
        # Slurm counts in minutes; rounding down would end a job early.
        f"--time={-(-want.time_limit_s // 60)}",
        *(f"--{option}={value}" for option, value in optional.items() if value is not None),
    ]


def _exit_fields(job: BatchJob) -> str:
    fields = dict(job.exit_record_fields) | {
        "result": "failed",
        "detail": "The worker ended without leaving an exit record; its log says why.",
    }
    return json.dumps(fields).removesuffix("}") + ', "exit_code": '


def _check(job: BatchJob) -> None:
    _need(bool(NAME.fullmatch(job.name)), "name", job.name)
    _need(bool(job.command), "command", "")
    # env(1) would read such a word as an assignment.
    _need("=" not in job.command[0], "command[0]", job.command[0])
    for path in (job.workdir, job.log_path, job.exit_record):
        _need(_path_is_safe(path), "path", str(path))
    for text in (*job.command, *job.environment.values()):
        _need("\0" not in text and _encodable(text), "argument or variable", text)
    for name in job.environment:
        _need(bool(_VARIABLE.fullmatch(name)), "variable name", name)
    _need(bool(_COMMENT.fullmatch(job.comment)), "comment", job.comment)
    _check_resources(job.resources)


def _check_resources(want: Resources) -> None:
    for field, pattern, value in (
        ("partition", _GRES, want.partition),
        ("account", _WORD, want.account),
        ("qos", _WORD, want.qos),
        ("gres", _GRES, want.gres),
        ("constraint", _CONSTRAINT, want.constraint),
        *(("exclude_nodes", _NODE, node) for node in want.exclude_nodes),
    ):
        _need(value is None or bool(pattern.fullmatch(value)), field, value or "")
    for field, number in (
        ("nodes", want.nodes),
        ("cpus", want.cpus),
        ("memory_mb", want.memory_mb),
        ("time_limit_s", want.time_limit_s),
    ):
        _need(number > 0, field, str(number))


def _path_is_safe(path: Path) -> bool:
    """Absolute, and free of what Slurm's own parser of #SBATCH lines gives a meaning."""
    text = str(path)
    return path.is_absolute() and _encodable(text) and not re.search(r'[\x00-\x1f\x7f"\\]', text)


def _encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _need(good: bool, field: str, value: str) -> None:
    if not good:
        text = f"{field} {value!r} cannot be written into a batch script; choose a plainer one"
        raise SubmitRejected(SubmitCategory.SCRIPT, text)


_TEMPLATE = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # noqa: S701 - a shell script: every value is quoted above
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
).get_template("job.sbatch.j2")
