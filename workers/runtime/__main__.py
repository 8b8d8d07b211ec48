"""``python -m workers.runtime``: the server of a runtime job. Everything comes from its
environment, see :mod:`workers.contract.env`."""

import asyncio
import logging
import os
import sys

from workers.runtime.job import clean_up_killed, run
from workers.runtime.settings import RuntimeSettings, SettingsError, read_settings
from workers.warden import guarded


def main() -> int:
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = read_settings(os.environ, cores=len(os.sched_getaffinity(0)))
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return guarded(lambda: _serve(settings), lambda number: clean_up_killed(settings, number))


def _serve(settings: RuntimeSettings) -> int:
    ending = asyncio.run(run(settings))
    print(f"runtime: {ending.result.value} {ending.detail}", file=sys.stderr, flush=True)
    return ending.exit_code


if __name__ == "__main__":
    sys.exit(main())
