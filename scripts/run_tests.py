"""Run the suites, each with the interpreter it needs; the control plane's comes last.

run_tests.py all        training suite, then everything else
run_tests.py training   real verl steps on the CPU (training environment)
run_tests.py control    everything but the training suite
run_tests.py slurm      what needs the Slurm test bed
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else "all"
    extra = sys.argv[2:]
    suites = {
        "all": [training, control],
        "training": [training],
        "control": [control],
        "slurm": [slurm],
    }[what]
    codes = [suite(extra) for suite in suites]
    sys.exit(next((code for code in codes if code), 0))


def training(extra):
    # The fixtures above tests/training are made of packages that the trainer does not have.
    own = ["tests/training", "--confcutdir=tests/training"]
    return pytest(paths()["train_python"], [*own, *extra])


def control(extra):
    return pytest(paths()["python"], extra)


def slurm(extra):
    return pytest(paths()["python"], ["-m", "slurm", *extra])


def pytest(python, arguments):
    return subprocess.run([python, "-m", "pytest", "-q", *arguments], cwd=ROOT).returncode


def paths():
    command = [sys.executable, str(ROOT / "scripts" / "setup.py"), "where"]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


if __name__ == "__main__":
    main()
