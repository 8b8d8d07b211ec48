"""``python -m examples.demo``: make the world, start Skydeck, launch, watch, judge."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from app.cli.client import ApiClient, CliError
from app.cli.runs import FINAL
from app.specfile import read_document
from examples.demo.places import ROOT, DemoError, LocalPlace, SlurmPlace
from examples.demo.summary import phases, shortfalls, summarise, table
from examples.demo.watch import complain, follow, pages

SPEC = ROOT / "examples" / "demo.yaml"


def main() -> int:
    args = _parser().parse_args()
    began = time.monotonic()
    try:
        paths = _paths()
        world = args.world or make_world(paths, args.seed)
        made = time.monotonic()
        place = make_place(args.scheduler, paths)
        place.prepare()
        try:
            return run_demo(args, place, world, paths, {"world": made - began})
        finally:
            place.stop()
    except (DemoError, CliError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run_demo(
    args: argparse.Namespace,
    place: LocalPlace,
    world: Path,
    paths: dict[str, str],
    seconds: dict[str, float],
) -> int:
    began = time.monotonic()
    api = place.start()
    print(f"Dashboard: {place.login_link()}", flush=True)
    seconds["control plane up"] = time.monotonic() - began
    run = launch(api, args, world, paths)
    try:
        run = follow(api, run["id"], threading.Event().wait)
    except KeyboardInterrupt:
        cancel(api, run["id"])
        raise
    seconds |= phases(run)
    summary = judge(api, run, seconds)
    summary |= {"scheduler": args.scheduler, "seed": args.seed}
    Path(args.summary).write_text(json.dumps(summary, indent=2) + "\n")
    print(f"\n{table(summary)}\n\nwritten: {args.summary}", flush=True)
    missing = shortfalls(summary)
    for text in missing:
        print(f"NOT PROVEN: {text}", file=sys.stderr)
    if run["state"] != "SUCCEEDED":
        complain(api, run)
    if not args.exit:
        print(f"\nThe dashboard stays up: {place.login_link()}   (Ctrl-C ends it)", flush=True)
        threading.Event().wait()
    return 1 if missing else 0


def launch(
    api: ApiClient, args: argparse.Namespace, world: Path, paths: dict[str, str]
) -> dict[str, Any]:
    """Through the public API, as anybody's script would."""
    sets = [
        f"data.train_file={world / 'train.jsonl'}",
        f"data.eval_file={world / 'eval.jsonl'}",
        f"trainer.model_path={world / 'model'}",
        f"trainer.python={paths['train_python']}",
        f"trainer.seed={args.seed}",
        f'runtime.image_archives=["{paths["image_archive"]}"]',
        *([f"trainer.steps={args.steps}"] if args.steps else []),
        *args.set,
    ]
    body = {"spec": read_document(SPEC), "sets": sets}
    return api.post("/runs", body, headers={"Idempotency-Key": uuid.uuid4().hex})


def judge(api: ApiClient, run: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    path = f"/runs/{run['id']}"
    return summarise(
        run,
        pages(api, f"{path}/steps"),
        pages(api, f"{path}/checkpoints"),
        pages(api, f"{path}/rollouts", validation="true", limit=200),
        seconds,
    )


def cancel(api: ApiClient, run_id: str) -> None:
    print("\ncancelling the run ...", flush=True)
    api.post(f"/runs/{run_id}/cancel")
    for _ in range(60):
        if api.get(f"/runs/{run_id}")["state"] in FINAL:
            return
        threading.Event().wait(1.0)


def make_world(paths: dict[str, str], seed: int) -> Path:
    """The tiny model and its tasks, made once per seed and recipe."""
    out = Path(paths["cache"]) / f"tiny-world-{_world_digest()}-seed{seed}"
    command = [paths["train_python"], "-m", "workers.training.tiny", "make"]
    done = subprocess.run([*command, "--out", str(out), "--seed", str(seed)], cwd=ROOT, check=False)
    if done.returncode:
        raise DemoError("the tiny world could not be made; see above")
    return out


def _world_digest() -> str:
    total = hashlib.sha256()
    for path in sorted((ROOT / "workers" / "training" / "tiny").glob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()[:12]


def make_place(scheduler: str, paths: dict[str, str]) -> LocalPlace:
    train = Path(paths["train_python"])
    if scheduler == "local":
        return LocalPlace(train)
    if os.geteuid() != 0:
        raise DemoError("the Slurm test bed is installed and started by root")
    exposed = [ROOT, Path(paths["cache"]), Path(sys.base_prefix), _base_prefix(train)]
    return SlurmPlace(train, exposed=exposed)


def _base_prefix(python: Path) -> Path:
    code = "import sys; print(sys.base_prefix)"
    return Path(subprocess.check_output([str(python), "-c", code], text=True).strip())


def _paths() -> dict[str, str]:
    command = [sys.executable, str(ROOT / "scripts" / "setup.py"), "where"]
    return json.loads(subprocess.check_output(command))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheduler", choices=["local", "slurm"], default="local")
    parser.add_argument("--exit", action="store_true", help="end when the run has ended")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--world", type=Path, help="model and tasks made before")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--summary", default="demo-summary.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
