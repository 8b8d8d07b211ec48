"""``up``, ``web``, ``reconciler``, ``migrate``: the long-lived processes."""

import os
import sys
import threading
from argparse import Namespace

import uvicorn

from app import up as supervisor
from app import wiring
from app.cli.client import TOKEN_FILE
from app.cli.exit_codes import Exit
from app.main import load_layers
from app.settings import Settings


def up(args: Namespace, settings: Settings) -> Exit:
    """Lock the data folder, migrate, listen, publish the address, keep both children alive."""
    load_layers(settings)  # a bad site profile is told here, not by children that die of it
    with supervisor.lock_data_folder(settings.home):
        engine = wiring.prepare_database(settings)
        with supervisor.writing(settings.home):
            token = wiring.admin_token(settings, engine, settings.home / TOKEN_FILE)
            engine.dispose()
            sock = supervisor.listen(settings.host, settings.port)
            url = supervisor.publish_address(settings, sock.getsockname()[1])
        stop = threading.Event()
        supervisor.stop_on_signals(stop)
        print(f"Skydeck {url}  (data folder {settings.home}, pid {os.getpid()})")
        print(f"Dashboard: {url}/login?token={token}", flush=True)
        supervisor.keep_alive(
            supervisor.children(settings, sock.fileno(), os.environ),  # noqa: TID251 - inherited
            stop,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
    return Exit.OK


def web(args: Namespace, settings: Settings) -> Exit:
    config = uvicorn.Config(
        wiring.application(settings),
        host=settings.host,
        port=settings.port,
        fd=args.fd,
        log_level=settings.log_level.lower(),
        access_log=False,
        timeout_graceful_shutdown=3,
    )
    uvicorn.Server(config).run()
    return Exit.OK


def reconciler(args: Namespace, settings: Settings) -> Exit:
    stop = threading.Event()
    supervisor.stop_on_signals(stop)
    wiring.run_reconciler(settings, stop)
    return Exit.OK


def migrate(args: Namespace, settings: Settings) -> Exit:
    wiring.prepare_database(settings)
    print(f"database at head: {wiring.shown_url(settings)}")
    return Exit.OK
