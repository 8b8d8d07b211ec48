"""What a runtime checks and prepares on its node, without starting anything."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from workers import ownership
from workers.contract import env
from workers.preflight import Check, Node, can_limit, check_runtime, failed
from workers.runtime.images import ImageBuildError, build_task_image, read_recipe
from workers.runtime.podman_home import PodmanHome, home_for, seccomp_profile
from workers.runtime.settings import SettingsError, read_settings
from workers.runtime.toolserver.build import ToolServerBuildError, build

PURE = "25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
HYBRID = PURE + "26 25 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def node(tmp_path: Path, uid: int = 1001, mounts: str = PURE, subid: str = "") -> Node:
    (tmp_path / "mountinfo").write_text(mounts)
    (tmp_path / "subid").write_text(subid)
    return Node(
        uid=uid,
        user="ann",
        kernel=(6, 1),
        which=lambda program: f"/usr/bin/{program}",
        subuid=tmp_path / "subid",
        subgid=tmp_path / "subid",
        mountinfo=tmp_path / "mountinfo",
    )


def bad(found: Node, tmp_path: Path, *archives: Path) -> dict[str, Check]:
    return {c.name: c for c in failed(check_runtime(found, tmp_path, archives))}


def test_a_good_node_passes_as_root_and_as_a_user(tmp_path: Path) -> None:
    assert bad(node(tmp_path, uid=0), tmp_path) == {}
    assert bad(node(tmp_path, subid="ann:100000:65536\n"), tmp_path) == {}
    assert bad(node(tmp_path, subid="1001:100000:65536\n"), tmp_path) == {}


def test_a_user_without_subordinate_ids_is_told_the_command_that_gives_them(
    tmp_path: Path,
) -> None:
    for text in ("", "bob:100000:65536\n", "ann:100000:1000\n", "ann:x:y\n"):
        found = bad(node(tmp_path, subid=text), tmp_path)
        assert set(found) == {"subid"}
        assert "usermod --add-sub" in found["subid"].mend


def test_hybrid_cgroups_stop_a_user_but_not_root(tmp_path: Path) -> None:
    as_user = node(tmp_path, mounts=HYBRID, subid="ann:100000:65536\n")
    assert "umount /sys/fs/cgroup/unified" in bad(as_user, tmp_path)["cgroups"].mend
    assert bad(node(tmp_path, uid=0, mounts=HYBRID), tmp_path) == {}


def test_missing_programs_archives_and_old_kernels_are_named(tmp_path: Path) -> None:
    poor = Node(
        uid=1001,
        user="ann",
        kernel=(4, 18),
        which=lambda _: None,
        subuid=tmp_path / "none",
        subgid=tmp_path / "none",
        mountinfo=node(tmp_path).mountinfo,
    )
    found = bad(poor, tmp_path, tmp_path / "none.tar")
    assert {"podman", "crun", "conmon", "newuidmap", "kernel", "image_archive"} <= set(found)
    assert found["podman"].mend == "apt-get install podman"
    assert str(tmp_path / "none.tar") in found["image_archive"].text()


def test_limits_need_root_and_control_groups_that_can_be_written(tmp_path: Path) -> None:
    assert not can_limit(node(tmp_path, uid=0), tmp_path)
    (tmp_path / "memory").mkdir()
    assert can_limit(node(tmp_path, uid=0), tmp_path)
    assert not can_limit(node(tmp_path, uid=1001), tmp_path)


def test_a_job_s_folder_is_short_and_its_own(tmp_path: Path) -> None:
    one, two = home_for("sd-x-a1", Path("/tmp")), home_for("sd-x-a2", Path("/tmp"))
    assert one != two
    assert one == home_for("sd-x-a1", Path("/tmp"))
    deep = home_for("sd-x-a1", Path("/very" * 30))
    assert len(str(deep / "c" / "sb-0123456789" / "s")) < 108


def test_only_folders_whose_server_is_dead_are_abandoned(tmp_path: Path) -> None:
    for name in (
        "sd-alive000",
        "sd-dead0000",
        "sd-zombie00",
        "sd-reused00",
        "sd-unseen00",
        "sd-unknown0",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "sd-link0000").symlink_to(tmp_path / "sd-dead0000")
    ownership.mark(tmp_path / "sd-alive000")
    owner = (tmp_path / "sd-alive000" / "owner").read_text().split("\n")
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    start = Path(f"/proc/{zombie.pid}/stat").read_text().rpartition(")")[2].split()[19]
    (tmp_path / "sd-zombie00" / "owner").write_text("\n".join([str(zombie.pid), start, *owner[2:]]))
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead = [str(ended.pid), "1", *owner[2:]]
    (tmp_path / "sd-dead0000" / "owner").write_text("\n".join(dead))
    (tmp_path / "sd-reused00" / "owner").write_text("\n".join([owner[0], "1", *owner[2:]]))
    (tmp_path / "sd-unseen00" / "owner").write_text("\n".join([*dead[:3], "pid:[1]"]))
    (tmp_path / "sd-unknown0" / "owner").write_text(owner[0])
    found = {p.name for p in ownership.abandoned(tmp_path, "sd-????????")}
    zombie.wait()
    assert found == {"sd-dead0000", "sd-zombie00", "sd-reused00"}


def test_everything_podman_reads_names_the_job_s_folder_and_nobody_else_can_enter(
    tmp_path: Path,
) -> None:
    home = PodmanHome(tmp_path / "sd-1", rootless=True, cgroups=False)
    home.prepare()
    home.prepare()
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700
    environment = home.environment("/usr/bin")
    assert "CONTAINERS_STORAGE_CONF" not in environment
    text = Path(environment["CONTAINERS_CONF"]).read_text()
    assert 'lock_type="file"' in text
    assert "keyring=false" in text
    storage = Path(environment["XDG_CONFIG_HOME"], "containers/storage.conf").read_text()
    assert f'graphroot="{home.root}/root"' in storage
    rootful = PodmanHome(tmp_path / "sd-1", rootless=False, cgroups=True)
    assert "CONTAINERS_STORAGE_CONF" in rootful.environment("/usr/bin")


def test_the_seccomp_profile_lets_nobody_make_namespaces(tmp_path: Path) -> None:
    stock = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64"}],
        "syscalls": [
            {"names": ["read", "clone", "unshare", "mount"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["setns"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}},
        ],
    }
    source = tmp_path / "seccomp.json"
    source.write_text(json.dumps(stock))
    profile = seccomp_profile(source)
    rules = profile["syscalls"]
    assert isinstance(rules, list)
    plain = {
        n for r in rules if "args" not in r and r["action"] == "SCMP_ACT_ALLOW" for n in r["names"]
    }
    assert plain == {"read"}
    (clone,) = (r for r in rules if r["names"] == ["clone"])
    assert clone["args"][0]["value"] & 0x10000000, "CLONE_NEWUSER must be among the masked flags"
    assert "archMap" not in profile
    assert len(profile["architectures"]) == 1  # type: ignore[arg-type]


def test_settings_name_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=env.ATTEMPT_FILE):
        read_settings({}, cores=2)
    with pytest.raises(SettingsError, match="no attempt file"):
        read_settings({env.ATTEMPT_FILE: str(tmp_path / "none.json")}, cores=2)


def test_the_task_image_s_name_follows_its_recipe(tmp_path: Path) -> None:
    recipe = read_recipe()
    copy = tmp_path / "recipe"
    copy.mkdir()
    (copy / "recipe.json").write_text((recipe.customize.parent / "recipe.json").read_text())
    (copy / "customize.sh").write_text(recipe.customize.read_text() + "# other\n")
    assert read_recipe(copy).digest != recipe.digest
    assert recipe.name == "localhost/skydeck-task:1"


def test_an_archive_that_exists_is_used_and_a_missing_tool_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    there = tmp_path / "there.tar"
    there.write_bytes(b"x")
    assert build_task_image(there, read_recipe(), said.append) == there
    assert "reused" in said[0]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageBuildError, match="apt-get install mmdebstrap"):
        build_task_image(tmp_path / "new.tar", read_recipe(), said.append)
    assert list(tmp_path.glob(".*")) == []


def test_a_home_that_cannot_be_written_is_told_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "home").touch()  # root may write everywhere, but not below a file
    with pytest.raises(ToolServerBuildError, match="home folder that this node can write") as told:
        build(tmp_path / "home" / ".cache" / "skydeck")
    assert str(tmp_path / "home") in str(told.value)


def test_a_compiler_that_fails_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    (tmp_path / "broken.c").write_text("not C")
    with pytest.raises(ToolServerBuildError, match=r"broken\.c"):
        build(tmp_path / "cache", tmp_path / "broken.c")
    assert list((tmp_path / "cache").iterdir()) == []
