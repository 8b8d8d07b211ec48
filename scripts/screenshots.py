"""Make the pictures of the documentation: docs/images/*.png.

    python scripts/screenshots.py                      on invented demonstration data
    python scripts/screenshots.py --url URL --token-file FILE    of a Skydeck that runs

Needs chromium and chromium-driver (apt-get install chromium chromium-driver).
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from app.clock import system_clock  # noqa: E402 - the script is started by its path
from app.db.engine import make_engine, make_sessions  # noqa: E402
from app.db.migrate import upgrade  # noqa: E402
from app.ids import new_id  # noqa: E402
from app.main import create_app  # noqa: E402
from app.services import tokens  # noqa: E402
from app.settings import Settings  # noqa: E402
from tests.factories import demo_data  # noqa: E402
from tests.factories.browser import Chromium, chromium  # noqa: E402
from tests.factories.serving import serving  # noqa: E402

WIDTH = 1280


@dataclass(frozen=True)
class Site:
    url: str
    token: str
    run: str
    rollout: str


@dataclass(frozen=True)
class Shot:
    name: str
    path: str
    height: int | None = None
    dark: bool = False


def shots(site: Site) -> tuple[Shot, ...]:
    run = f"/runs/{site.run}"
    return (
        Shot("run-list", "/", 720),
        Shot("run-page", run, 1500),
        Shot("run-page-dark", run, 1500, dark=True),
        Shot("transcript", f"{run}/rollouts/{site.rollout}"),
        Shot("launch-form", "/launch?start=demo", 740),
    )


@contextmanager
def demonstration() -> Iterator[Site]:
    with tempfile.TemporaryDirectory() as name:
        folder, now = Path(name), system_clock()
        engine = make_engine(f"sqlite:///{folder / 'skydeck.db'}")
        upgrade(engine)
        sessions = make_sessions(engine)
        with sessions.begin() as session:
            demo_data.fill(session, now, folder / "runs")
            _, token = tokens.create(session, "ada", at=now, ids=new_id)
        # The clock stands still, so that no page calls the invented reconciler late.
        app = create_app(Settings(data_dir=folder), sessions=sessions, clock=lambda: now)
        with serving(app) as url:
            yield Site(url, token, demo_data.RUNNING, f"{demo_data.RUNNING}-s50-0-4")
        engine.dispose()


def running(url: str, token: str) -> Site:
    """Its newest run, and of that the newest rollout that has a reward."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"{url}/api/v1", headers=headers) as api:
        run = api.get("/runs", params={"limit": 1}).raise_for_status().json()["items"][0]["id"]
        found = api.get(f"/runs/{run}/rollouts").raise_for_status().json()["items"]
    best = max(found, key=lambda rollout: rollout["reward"] or 0.0)
    return Site(url, token, run, best["id"])


def take(browser: Chromium, site: Site, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    browser.open(f"{site.url}/login?token={site.token}")
    for shot in shots(site):
        browser.dark(shot.dark)
        browser.open(site.url + shot.path)
        browser.screenshot(folder / f"{shot.name}.png", WIDTH, shot.height)
        print(folder / f"{shot.name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--url", help="address of a Skydeck that runs")
    parser.add_argument("--token-file", type=Path, help="file that holds its token")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    args = parser.parse_args()
    with chromium() as browser:
        if args.url:
            take(browser, running(args.url, args.token_file.read_text().strip()), args.out)
        else:
            with demonstration() as site:
                take(browser, site, args.out)


if __name__ == "__main__":
    main()
