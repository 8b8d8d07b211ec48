"""When is a checkpoint of verl complete? Pure functions over a folder."""

import json
import re
from pathlib import Path

from workers.training.integrations.base import Completeness

STEP_FOLDER = re.compile(r"global_step_(\d+)")
SHARD_KINDS = ("model", "optim", "extra_state")


def checkpoint_folders(directory: Path) -> tuple[Path, ...]:
    """Step folders of ``directory``, lowest step first. A missing directory has none."""
    if not directory.is_dir():
        return ()
    named = ((STEP_FOLDER.fullmatch(entry.name), entry) for entry in directory.iterdir())
    found = sorted((int(match[1]), entry) for match, entry in named if match and entry.is_dir())
    return tuple(entry for _, entry in found)


def completeness(folder: Path) -> Completeness:
    """Complete means: every shard of every kind for the world size it names, and data.pt.

    The tracker file is no evidence: it names the newest step only and is overwritten in
    place. A folder with data.pt but without actor/ was pruned by the trainer itself.
    """
    match = STEP_FOLDER.fullmatch(folder.name)
    step = int(match[1]) if match else -1
    data, actor = _filled(folder / "data.pt"), folder / "actor"
    if data and not actor.exists():
        return Completeness(step, {"data": data}, pruned=True)
    world = _world_size(actor / "fsdp_config.json")
    parts = {"step": match is not None, "data": data, "fsdp_config": world > 0}
    for kind in SHARD_KINDS:
        names = (f"{kind}_world_size_{world}_rank_{rank}.pt" for rank in range(world))
        parts[kind] = world > 0 and all(_filled(actor / name) for name in names)
    return Completeness(step, parts)


def _filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _world_size(config: Path) -> int:
    """0 when the file is missing or half written."""
    try:
        value = json.loads(config.read_text()).get("world_size", 0)
    except (OSError, ValueError, AttributeError):
        return 0
    return value if isinstance(value, int) else 0
