"""A real headless Chromium, driven through chromedriver's own HTTP protocol."""

import base64
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class NoBrowser(RuntimeError):
    """Chromium or its driver is missing: apt-get install chromium chromium-driver."""


@dataclass(frozen=True)
class Chromium:
    """One window. Each method is one command of the WebDriver protocol."""

    http: httpx.Client
    session: str

    def open(self, url: str) -> None:
        self._post("url", url=url)

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).innerText", selector)

    def click(self, selector: str) -> None:
        self._post(f"element/{self._find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        element = self._find(selector)
        self._post(f"element/{element}/clear")
        self._post(f"element/{element}/value", text=text)

    def run(self, script: str, *arguments: object) -> Any:
        return self._post("execute/sync", script=script, args=list(arguments))

    def wait_for(self, condition: Callable[[], bool], what: str, limit_s: float = 20) -> None:
        end = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"not seen within {limit_s} s: {what}")
            time.sleep(0.1)

    def console(self) -> list[str]:
        """Messages since the last call, warnings and errors alike."""
        return [entry["message"] for entry in self._post("se/log", type="browser")]

    def dark(self, on: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self._cdp("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path, width: int, height: int | None = None) -> None:
        """Without ``height`` the whole page."""
        self._cdp("Emulation.setDeviceMetricsOverride", **_metrics(width, height or 900))
        tall = height or self.run("return document.documentElement.scrollHeight")
        self._cdp("Emulation.setDeviceMetricsOverride", **_metrics(width, tall))
        path.write_bytes(base64.b64decode(self._get("screenshot")))

    def _find(self, selector: str) -> str:
        return self._post("element", using="css selector", value=selector)[_ELEMENT]

    def _cdp(self, command: str, **params: object) -> Any:
        return self._post("goog/cdp/execute", cmd=command, params=params)

    def _post(self, path: str, **body: object) -> Any:
        return _value(self.http.post(f"/session/{self.session}/{path}", json=body))

    def _get(self, path: str) -> Any:
        return _value(self.http.get(f"/session/{self.session}/{path}"))


def installed() -> bool:
    return bool(shutil.which("chromium") and shutil.which("chromedriver"))


@contextmanager
def chromium() -> Iterator[Chromium]:
    """A fresh browser with a profile of its own; both are gone afterwards."""
    if not installed():
        raise NoBrowser(NoBrowser.__doc__)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        _driver() as http,
    ):
        session = _value(http.post("/session", json=_capabilities(profile)))["sessionId"]
        try:
            yield Chromium(http, session)
        finally:
            http.delete(f"/session/{session}")


@contextmanager
def _driver() -> Iterator[httpx.Client]:
    process = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        port = next(_ports(process.stdout))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            yield http
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def _ports(lines: Iterator[str]) -> Iterator[int]:
    for line in lines:
        if "started successfully on port" in line:
            yield int(line.rsplit(" ", 1)[1].strip(". \n"))
    raise NoBrowser("chromedriver ended before it listened")


def _capabilities(profile: str) -> dict[str, Any]:
    options = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={profile}"]}
    wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    return {"capabilities": {"alwaysMatch": wanted}}


def _metrics(width: int, height: int) -> dict[str, Any]:
    return {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}


def _value(answer: httpx.Response) -> Any:
    value = answer.json()["value"]
    if answer.is_error:
        raise AssertionError(f"{value['error']}: {value['message'].splitlines()[0]}")
    return value
