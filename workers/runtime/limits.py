"""Measures what is enforced on this node, with commands in a probe sandbox.

Engines promise more than they keep: rootless podman on cgroup v1 accepts memory and pids limits and
ignores them. What is reported at registration is what was seen to happen here.
"""

from workers.contract.sandbox_api import Limit
from workers.contract.spec import RuntimeSpec
from workers.runtime.engine import SANDBOX_UID, Engine, LimitNotEnforced
from workers.runtime.pool import Box
from workers.runtime.toolclient import Command, Outcome

PROBE_DEADLINE_S = 30.0
_BEYOND_MB = 64
_BEYOND_PIDS = 16
_STATUS = "cat /proc/self/status"
_INTERFACES = "cat /proc/net/dev"
_USE_MEMORY = "head -c {size}m /dev/zero | tail -c {size}m | wc -c"
_FORK = "i=0; while [ $i -lt {count} ]; do sleep 5 & i=$((i+1)); done; echo all"


async def measure(engine: Engine, box: Box, spec: RuntimeSpec) -> tuple[Limit, ...]:
    """Raises LimitNotEnforced if the engine did not apply the hardening that it was told."""
    await _read_back(engine, box, spec)
    status = _fields((await _sh(box, _STATUS)).stdout.decode())
    interfaces = (await _sh(box, _INTERFACES)).stdout.decode()
    return (
        _network(spec, interfaces),
        Limit(
            name="no_new_privileges",
            requested="1",
            enforced=status.get("NoNewPrivs") == "1",
            evidence=f"NoNewPrivs {status.get('NoNewPrivs')} in /proc/self/status",
        ),
        _capabilities(status),
        Limit(
            name="seccomp",
            requested="filter",
            enforced=status.get("Seccomp") == "2",
            evidence=f"Seccomp {status.get('Seccomp')} in /proc/self/status",
        ),
        Limit(
            name="user",
            requested=str(SANDBOX_UID),
            enforced=status.get("Uid", "0").split()[0] == str(SANDBOX_UID),
            evidence=f"Uid {status.get('Uid', '?').split()[0]} in /proc/self/status",
        ),
        await _memory(box, spec.sandbox_memory_mb),
        await _pids(box, spec.sandbox_pids),
    )


async def _read_back(engine: Engine, box: Box, spec: RuntimeSpec) -> None:
    found = await engine.hardening(box.container)
    missing = [
        text
        for text, ok in (
            ("no_new_privileges", found.no_new_privileges),
            ("cap_drop ALL", not found.capabilities),
            ("a user that is not root", found.user.split(":")[0] not in ("", "0", "root")),
            ("network none", found.network_none or spec.network != "none"),
        )
        if not ok
    ]
    if missing:
        raise LimitNotEnforced(f"{engine.description} did not apply: {', '.join(missing)}")


async def _sh(box: Box, text: str) -> Outcome:
    return await box.tools.run(Command(("sh", "-c", text), timeout_s=PROBE_DEADLINE_S))


def _fields(status: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in status.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _network(spec: RuntimeSpec, text: str) -> Limit:
    names = sorted(line.partition(":")[0].strip() for line in text.splitlines() if ":" in line)
    return Limit(
        name="network",
        requested=spec.network,
        enforced=spec.network != "none" or names == ["lo"],
        evidence=f"interfaces: {', '.join(names)}",
    )


def _capabilities(status: dict[str, str]) -> Limit:
    sets = {name: int(status.get(name, "1"), 16) for name in ("CapEff", "CapPrm", "CapBnd")}
    return Limit(
        name="capabilities",
        requested="none",
        enforced=not any(sets.values()),
        evidence=", ".join(f"{name} {value:x}" for name, value in sets.items()),
    )


async def _memory(box: Box, limit_mb: int) -> Limit:
    """`tail -c` must hold all that it is to give out at the end."""
    size = limit_mb + _BEYOND_MB
    out = await _sh(box, _USE_MEMORY.format(size=size))
    got_all = out.stdout.strip() == str(size << 20).encode()
    return Limit(
        name="memory",
        requested=f"{limit_mb} MiB",
        enforced=not got_all,
        evidence=f"a process {'held' if got_all else 'could not hold'} {size} MiB",
    )


async def _pids(box: Box, limit: int) -> Limit:
    count = limit + _BEYOND_PIDS
    out = await _sh(box, _FORK.format(count=count))
    started_all = out.stdout.strip() == b"all"
    return Limit(
        name="pids",
        requested=str(limit),
        enforced=not started_all,
        evidence=f"{count} processes at once {'could' if started_all else 'could not'} be started",
    )
