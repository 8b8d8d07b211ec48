"""Makes the demo's world in one folder: model, tasks and a manifest of how they came about."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from workers.training.tiny import dialogue, model, tasks, tokenizer, warmup
from workers.training.tiny.evaluate import evaluate
from workers.training.tiny.recipe import RECIPE, Recipe
from workers.training.tiny.simulator import SimulatedWorkspace

MANIFEST = "manifest.json"
Progress = Callable[[str], None]


class NotAWorld(Exception):
    """The target folder holds something that this module did not make."""


@dataclass(frozen=True)
class Made:
    manifest: dict[str, Any]
    reused: bool


def make(
    out: Path, seed: int, progress: Progress, recipe: Recipe = RECIPE, device: str = "cpu"
) -> Made:
    """Bring `out` into being, or reuse it if the same recipe and seed already made it whole.

    The folder appears by one rename: an interrupted call leaves no half-made world.
    """
    found = _read_manifest(out)
    if found and found["recipe"] == _plain(asdict(recipe)) and found["seed"] == seed:
        if found["sha256"] == _digest(out):
            return Made(found, reused=True)
        progress(f"{out} was altered since it was made: making it anew")
    if found is None and out.exists() and any(out.iterdir()):
        raise NotAWorld(f"{out} is not empty and has no {MANIFEST}: choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        manifest = _fill(building, seed, progress, recipe, device)
        _replace(building, out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Made(manifest, reused=False)


def _fill(
    folder: Path, seed: int, progress: Progress, recipe: Recipe, device: str
) -> dict[str, Any]:
    words = tokenizer.build()
    net = model.build(words, recipe.shape, seed).to(device)
    began = time.monotonic()
    for number, phase in enumerate(recipe.phases, start=1):
        report = _reporter(progress, f"warm-up {number}/{len(recipe.phases)}", phase.schedule.steps)
        warmup.train(net, words, phase, seed, report)
    seconds = time.monotonic() - began
    model.save(net, words, folder / "model")
    for split, count in (("train", recipe.train_tasks), ("eval", recipe.eval_tasks)):
        rows = [task.row() for task in tasks.sample_tasks(seed, split, count)]
        (folder / f"{split}.jsonl").write_text(tasks.write_jsonl(rows), encoding="utf-8")
    progress("measuring the sampled reward before training (simulated workspaces)")
    manifest = {
        "recipe": _plain(asdict(recipe)),
        "seed": seed,
        "parameters": model.parameters(net),
        "vocabulary": len(words),
        "warmup_seconds": round(seconds, 1),
        "simulated_reward_before": _reward_before(net, words, seed, recipe),
        "max_turns": dialogue.MAX_TURNS,
        "turn_tokens": dialogue.TURN_TOKENS,
        "prompt_tokens": dialogue.PROMPT_TOKENS,
        "response_tokens": dialogue.RESPONSE_TOKENS,
        "sha256": _digest(folder),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def _reward_before(
    net: Qwen2ForCausalLM, words: PreTrainedTokenizerFast, seed: int, recipe: Recipe
) -> dict[str, float]:
    return {
        split: round(
            evaluate(
                net,
                words,
                tasks.sample_tasks(seed, split, recipe.measured_tasks),
                SimulatedWorkspace,
                seed,
            ).reward,
            4,
        )
        for split in ("train", "eval")
    }


def _reporter(progress: Progress, label: str, steps: int) -> Callable[[int, float], None]:
    """A line every few seconds."""
    last = time.monotonic()

    def report(step: int, loss: float) -> None:
        nonlocal last
        if step == steps or time.monotonic() - last > 5:
            last = time.monotonic()
            progress(f"{label}: step {step}/{steps}, loss {loss:.3f}")

    return report


def _replace(building: Path, out: Path) -> None:
    building.chmod(0o755)
    if not out.exists():
        os.rename(building, out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
    os.rename(out, old / "world")
    os.rename(building, out)
    shutil.rmtree(old)


def _read_manifest(out: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads((out / MANIFEST).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return {"recipe": None, "seed": None}


def _digest(folder: Path) -> str:
    """Over names and contents of everything but the manifest."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / MANIFEST:
            digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _plain(value: object) -> Any:
    """As JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(value))
