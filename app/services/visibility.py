"""Paths of a spec that cannot be seen from the control plane's machine."""

import os.path
from collections.abc import Callable, Iterator

from workers.contract.spec import RunKind, RunSpec

Exists = Callable[[str], bool]


def unseen(spec: RunSpec, exists: Exists = os.path.exists) -> tuple[str, ...]:
    """One warning per path that is not there. Never a problem: compute nodes may see more than the
    login node does."""
    return tuple(
        f"{key} {path} is not visible from here; the jobs must see it: check the spelling, or put "
        "it on a file system that their nodes share"
        for key, path in _paths(spec)
        if path.startswith("/") and not exists(path)
    )


def _paths(spec: RunSpec) -> Iterator[tuple[str, str]]:
    """What the jobs of this kind of run will open."""
    if spec.kind is not RunKind.ATTACHED:
        yield from (("runtime.image_archives", path) for path in spec.runtime.image_archives)
    if spec.kind is RunKind.RUNTIME_ONLY:
        return
    named = {
        "trainer.python": spec.trainer.python,
        "trainer.model_path": spec.trainer.model_path,
        "data.train_file": spec.data.train_file,
        "data.eval_file": spec.data.eval_file,
        "runtime_token_file": spec.runtime_token_file,
    }
    yield from ((key, path) for key, path in named.items() if path is not None)
