"""A small parent of a worker, to tidy up after one that was killed outright.

Whatever a worker leaves when the kernel or a person kills it (containers, folders, no last word)
would lie there until the next worker comes to this node. If the whole job is killed, the warden is
too: then that is still so.
"""

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PASSED_ON = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGUSR1})
_WATCHED = _PASSED_ON | {signal.SIGCHLD}


def guarded(worker: Callable[[], int], after_kill: Callable[[signal.Signals], int]) -> int:
    """Runs ``worker`` in a child and returns its exit code; signals are passed on to it. If one
    ends it, ``after_kill`` is called here with that signal and gives the code instead.

    Call it before any thread or event loop exists: it forks. The child returns from it too.
    If the warden is killed, the worker is told to stop by SIGTERM.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what the worker leaves comes to us, not to init
    warden = os.getpid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    child = os.fork()
    if child == 0:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if os.getppid() != warden:
            return 1
        return worker()
    status = _watch(child)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else after_kill(signal.Signals(-code))


def _watch(child: int) -> int:
    """The child's wait status. Other processes that died into our care are reaped on the way."""
    while True:
        number = signal.sigwait(_WATCHED)
        if number != signal.SIGCHLD:
            os.kill(child, number)
            continue
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if found[0] == child:
                return found[1]


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
