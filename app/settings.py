"""The one reader of the environment. Everything else gets a frozen :class:`Settings`."""

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import Invalid

PREFIX = "SKYDECK_"


class Settings(BaseModel):
    """Configuration of one installation. Each field is read from ``SKYDECK_<FIELD>``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_dir: Path = Path("~/.local/share/skydeck")
    """Database (unless database_url says otherwise), run directories, tokens. Local disk for
    SQLite; run directories must be visible from the compute nodes."""
    database_url: str | None = None
    """SQLAlchemy URL, for example ``postgresql+psycopg://user@host/skydeck``. Default: SQLite in
    data_dir."""
    host: str = "127.0.0.1"
    port: int = Field(default=8480, ge=0, le=65535)
    """0 takes a free port."""
    public_url: str | None = None
    """How compute nodes reach the web process; default ``http://host:port``."""
    scheduler: str = Field(default="auto", pattern=r"^(auto|local|slurm)$")
    site_profile: Path | None = None
    train_python: Path | None = None
    """Interpreter of the training environment, for specs that name none."""
    tick: timedelta = timedelta(seconds=5)
    slurm_deadline: timedelta = timedelta(seconds=15)
    """MessageTimeout (10 s by default) + 5 s, so that Slurm's own answer wins."""
    settle_window: timedelta = timedelta(seconds=30)
    """Unbroken absence before an unanswered submission is repeated: 3 x MessageTimeout."""
    vanish_grace: timedelta = timedelta(seconds=120)
    heartbeat: timedelta = timedelta(seconds=10)
    stale_after: timedelta = timedelta(seconds=45)
    lost_after: timedelta = timedelta(seconds=180)
    lease: timedelta = timedelta(seconds=60)
    orphan_sweep: timedelta = timedelta(minutes=5)
    webhook_allow: tuple[str, ...] = ()
    """Host names or networks that webhooks may reach although they are loopback or private."""
    log_level: str = "INFO"

    @property
    def home(self) -> Path:
        return self.data_dir.expanduser().resolve()

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'skydeck.db'}"

    @property
    def runs_dir(self) -> Path:
        return self.home / "runs"

    @property
    def control_plane_file(self) -> Path:
        from workers.contract.env import CONTROL_PLANE_FILE

        return self.home / CONTROL_PLANE_FILE


# Variables with our prefix that other parts of the system own.
_FOREIGN = frozenset({"SKYDECK_URL", "SKYDECK_TOKEN"})


def load_settings(environ: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Settings from ``SKYDECK_*`` variables; ``overrides`` (command line) win.

    Raises Invalid naming every variable that is unknown or has an impossible value.
    """
    env = os.environ if environ is None else environ
    values: dict[str, object] = {}
    for name, value in env.items():
        if name.startswith(PREFIX) and name not in _FOREIGN:
            values[name.removeprefix(PREFIX).lower()] = _parse(name, value)
    values.update({key: value for key, value in overrides.items() if value is not None})
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise Invalid(_explain(error)) from None


def _parse(name: str, value: str) -> object:
    if name == f"{PREFIX}WEBHOOK_ALLOW":
        return tuple(part.strip() for part in value.split(",") if part.strip())
    field = Settings.model_fields.get(name.removeprefix(PREFIX).lower())
    if field is not None and field.annotation is timedelta:
        try:
            return timedelta(seconds=float(value))
        except ValueError:
            raise Invalid(f"{name}={value!r} is not a number of seconds") from None
    return value


def _explain(error: ValidationError) -> str:
    lines: list[str] = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        known = ", ".join(f"{PREFIX}{name.upper()}" for name in Settings.model_fields)
        hint = f"; known: {known}" if problem["type"] == "extra_forbidden" else ""
        lines.append(f"setting {PREFIX}{key.upper()}: {problem['msg']}{hint}")
    return "\n".join(lines)
