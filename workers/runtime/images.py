"""Builds the task image: Debian packages -> one uncompressed image archive.

The archive is written here, not by a container engine: one layer, no compression, so that the
engine of a job loads it in a second. It is named by a hash of its recipe; the same recipe is never
built twice.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

RECIPE_DIR = Path(__file__).parents[2] / "images" / "task"
BUILD_DEADLINE_S = 900.0

Say = Callable[[str], None]


class ImageBuildError(Exception):
    """The task image could not be built."""


@dataclass(frozen=True)
class Recipe:
    name: str
    suite: str
    packages: tuple[str, ...]
    environment: tuple[str, ...]
    workdir: str
    user: str
    customize: Path
    digest: str
    """Hash of everything that decides what comes out."""


def read_recipe(folder: Path = RECIPE_DIR) -> Recipe:
    text = (folder / "recipe.json").read_bytes()
    customize = folder / "customize.sh"
    known = json.loads(text)
    return Recipe(
        name=known["name"],
        suite=known["suite"],
        packages=tuple(known["packages"]),
        environment=tuple(known["environment"]),
        workdir=known["workdir"],
        user=known["user"],
        customize=customize,
        digest=hashlib.sha256(text + customize.read_bytes()).hexdigest()[:12],
    )


def archive_name(recipe: Recipe) -> str:
    return f"skydeck-task-{recipe.digest}.tar"


def build_task_image(out: Path, recipe: Recipe, say: Say) -> Path:
    """Leaves the archive at ``out`` and returns it; does nothing when it is there already.

    The name of ``out`` should hold the recipe's digest (see :func:`archive_name`): an archive that
    exists is taken to be right.
    """
    if out.exists():
        say(f"task image {recipe.name}: reused {out}")
        return out
    started = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    layer = out.with_name(f".{out.name}.{os.getpid()}.layer")
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        say(f"task image {recipe.name}: unpacking {len(recipe.packages)} packages")
        _unpack_packages(recipe, layer, say)
        say(f"task image {recipe.name}: writing the archive")
        _write_archive(recipe, layer, part)
        part.rename(out)
    finally:
        layer.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
    size = out.stat().st_size / 1e6
    say(f"task image {recipe.name}: {size:.0f} MB in {time.monotonic() - started:.0f} s, {out}")
    return out


def _unpack_packages(recipe: Recipe, layer: Path, say: Say) -> None:
    tool = shutil.which("mmdebstrap")
    if tool is None:
        raise ImageBuildError("mmdebstrap is missing; install it: apt-get install mmdebstrap")
    command = [
        tool,
        f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
        "--variant=extract",
        "--format=tar",
        f"--include={','.join(recipe.packages)}",
        f'--extract-hook={recipe.customize} "$1"',
        recipe.suite,
        str(layer),
    ]
    lines = _run_with_progress(command, say)
    if lines is not None:
        tail = "\n".join(lines[-15:])
        raise ImageBuildError(f"mmdebstrap failed; its last lines:\n{tail}")


def _run_with_progress(command: Sequence[str], say: Say) -> list[str] | None:
    """Passes the tool's own steps on; returns all its lines if it failed, None if it did not."""
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith("I: "):
                say(f"  {line[3:].rstrip()}")
        code = process.wait(BUILD_DEADLINE_S)
    return None if code == 0 else lines


def _write_archive(recipe: Recipe, layer: Path, out: Path) -> None:
    with layer.open("rb") as file:
        layer_digest = hashlib.file_digest(file, "sha256").hexdigest()
    config = _config(recipe, layer_digest)
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    layer_name = f"{layer_digest}.tar"
    manifest = [{"Config": config_name, "RepoTags": [recipe.name], "Layers": [layer_name]}]
    with tarfile.open(out, "w") as archive:
        _add(archive, config_name, config)
        _add(archive, "manifest.json", json.dumps(manifest).encode())
        archive.add(layer, layer_name)


def _config(recipe: Recipe, layer_digest: str) -> bytes:
    document = {
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": {
            "Env": list(recipe.environment),
            "WorkingDir": recipe.workdir,
            "User": recipe.user,
            "Cmd": ["/bin/bash"],
            "Labels": {"skydeck.recipe": recipe.digest},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "skydeck task recipe"}],
    }
    return json.dumps(document, sort_keys=True).encode()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.runtime.images")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build-task", help="build the small task image")
    build.add_argument("--out", type=Path, help="archive to write; reused when it exists")
    build.add_argument("--cache", type=Path, help="folder; the archive is named by its recipe")
    build.add_argument("--recipe", type=Path, default=RECIPE_DIR, help="folder of the recipe")
    options = parser.parse_args(arguments)
    recipe = read_recipe(options.recipe)
    if (options.out is None) == (options.cache is None):
        parser.error("give either --out FILE or --cache FOLDER")
    out: Path = options.out or options.cache / archive_name(recipe)
    try:
        built = build_task_image(out, recipe, _say)
    except ImageBuildError as error:
        _say(f"error: {error}")
        return 1
    sys.stdout.write(f"{built}\n")
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
