"""The supervisor of the two processes."""

import json
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from app import up
from app.errors import Invalid
from app.settings import Settings, load_settings


def test_a_second_up_on_the_same_data_folder_is_refused_with_the_pid(tmp_path: Path) -> None:
    with up.lock_data_folder(tmp_path), pytest.raises(up.AlreadyRunning, match=r"with pid \d+"):
        up.lock_data_folder(tmp_path)


def test_the_data_folder_is_free_again_when_the_first_up_has_ended(tmp_path: Path) -> None:
    up.lock_data_folder(tmp_path).close()
    up.lock_data_folder(tmp_path).close()


def test_a_data_folder_that_is_a_file_is_refused_with_a_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Invalid, match="choose another with --data-dir"):
        up.lock_data_folder(tmp_path / "file")


def test_a_taken_port_is_refused_with_a_mend() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(Invalid, match="choose another with --port"):
            up.listen("127.0.0.1", other.getsockname()[1])


def test_the_published_address_is_complete_and_names_the_free_port(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert up.publish_address(settings, 4321) == "http://127.0.0.1:4321"
    assert json.loads(settings.control_plane_file.read_text())["url"] == "http://127.0.0.1:4321"


def test_a_child_that_dies_is_started_again_after_a_growing_delay() -> None:
    said: list[str] = []
    child = up.Child("web", [sys.executable, "-c", "raise SystemExit(3)"])
    child.check(0.0, said.append)
    assert child.process is not None
    child.process.wait()
    child.check(1.0, said.append)
    assert child.process is None
    assert "web ended (3); starting it again in 1 s" in said[0]
    child.check(1.5, said.append)
    assert child.process is None, "started before its delay was over"
    child.check(2.1, said.append)
    assert child.process is not None
    child.process.wait()


def test_children_are_ended_when_the_supervisor_is_told_to_stop() -> None:
    child = up.Child("web", [sys.executable, "-c", "import time; time.sleep(60)"])
    child.start(0.0)
    stop = threading.Event()
    stop.set()
    up.keep_alive([child], stop, say=lambda _: None)
    assert child.process is not None
    assert child.process.returncode == -signal.SIGTERM


def test_children_read_the_same_settings(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, port=0, webhook_allow=("127.0.0.1", "10.0.0.0/8"))
    assert load_settings(up.as_environment(settings)) == settings
