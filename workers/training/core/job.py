"""The trainer job: preflight, registration, heartbeat, the trainer, the exit record."""

import logging
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from workers.contract import env
from workers.contract.attempt import AttemptFile
from workers.contract.exit_record import ExitRecord, ExitResult
from workers.contract.registration import RegisterTrainer, TrainerHeartbeat
from workers.contract.version import CONTRACT_VERSION
from workers.control_plane import (
    Conflict,
    ControlPlane,
    ControlPlaneError,
    Retry,
    Superseded,
    Unavailable,
)
from workers.training.core import preflight
from workers.training.core.build import make_reporter
from workers.training.core.clock import Clock
from workers.training.core.errors import AttemptSuperseded, PreflightFailed
from workers.training.core.processes import adopt_orphans, end_descendants
from workers.training.core.sidecar import Ending, Sidecar, Status, Stop
from workers.training.integrations.base import Integration, IntegrationError

log = logging.getLogger(__name__)

_REGISTER_TRIES = 60
_ROLE = "trainer"
_LAST_REPORTS_S = 20.0
"""For what is still in the spool when the trainer has ended by itself."""
_LAST_REPORTS_STOPPED_S = 3.0
"""The same when we were told to stop: whoever told us kills us soon."""


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """Who this job is, as its environment says."""

    job_name: str
    index: int
    generation: int
    scheduler_job_id: str | None


class TrainerJob:
    """One trainer job of one attempt. :meth:`run` always leaves an exit record."""

    def __init__(
        self,
        attempt: AttemptFile,
        identity: JobIdentity,
        integration: Callable[[], Integration],
        environment: Mapping[str, str],
        *,
        echo: Callable[[str], None],
        clock: Clock | None = None,
    ) -> None:
        self._attempt = attempt
        self._identity = identity
        self._integration = integration
        self._environment = environment
        self._echo = echo
        self._clock = clock or Clock()
        self._stop = Stop()
        self._status = Status()
        self._done = threading.Event()

    def ask_to_stop(self, why: str) -> None:
        """Safe from a signal handler."""
        self._stop.set(ExitResult.DRAINED, why)

    def run(self) -> int:
        """The job's exit code."""
        try:
            ending = self._run()
        except (PreflightFailed, IntegrationError) as error:
            ending = Ending(ExitResult.PREFLIGHT_FAILED, 3, str(error))
        except AttemptSuperseded as error:
            ending = Ending(ExitResult.SUPERSEDED, 0, str(error))
        except ControlPlaneError as error:
            ending = Ending(ExitResult.FAILED, 1, f"not registered: {error}")
        except Exception as error:  # the border of the job: the record must tell
            log.exception("the trainer job failed")
            ending = Ending(ExitResult.FAILED, 1, f"{type(error).__name__}: {error}")
        finally:
            self._done.set()
        self._write_record(ending)
        log.info("end: %s %s", ending.result, ending.detail)
        return ending.exit_code

    def clean_up_killed(self, number: signal.Signals) -> int:
        """Tidies up after a process of this job that was killed outright while it was in
        :meth:`run`, and has its last word. The job's exit code."""
        end_descendants()
        if self._record_path().exists():
            return 1
        self._integration().remove_abandoned()
        reporter = make_reporter(self._attempt, "warden", self._clock, all_sources=True)
        reporter.start()
        reporter.close(_LAST_REPORTS_STOPPED_S)
        text = f"the trainer job's main process was killed by {number.name};"
        text += f" was the job's memory too small?\n{reporter.left_behind()}"
        self._write_record(Ending(ExitResult.FAILED, 1, text.strip()))
        return 1

    def _run(self) -> Ending:
        failures = preflight.failures(self._attempt, self._python())
        if failures:
            raise PreflightFailed("; ".join(f"{f.name}: {f.text}" for f in failures))
        patient = self._control_plane(Retry(tries=_REGISTER_TRIES), self._stop.event.wait)
        heartbeat_s = self._register(patient)
        beat = threading.Thread(
            target=self._beat,
            args=(self._control_plane(Retry(), self._done.wait), heartbeat_s),
            name="heartbeat",
            daemon=True,
        )
        beat.start()
        if self._stop.event.is_set():
            return Ending(self._stop.result, 0, self._stop.detail)
        return self._train()

    def _train(self) -> Ending:
        integration = self._integration()
        command = integration.prepare(self._attempt)
        reporter = make_reporter(self._attempt, "sidecar", self._clock, all_sources=True)
        reporter.start()
        adopt_orphans()
        sidecar = Sidecar(
            self._attempt,
            integration,
            reporter.put,
            self._stop,
            self._status,
            echo=self._echo,
            clock=self._clock,
        )
        try:
            ending = sidecar.run(command, self._environment)
        finally:
            self._status.phase = "finishing"
            reporter.close(
                _LAST_REPORTS_STOPPED_S if self._stop.event.is_set() else _LAST_REPORTS_S
            )
            for scratch in command.scratch:
                shutil.rmtree(scratch, ignore_errors=True)
        left = reporter.left_behind()
        return replace(ending, detail=f"{ending.detail}\n{left}".strip()) if left else ending

    def _python(self) -> str:
        return self._attempt.spec.trainer.python or sys.executable

    def _control_plane(self, retry: Retry, wait: Callable[[float], object]) -> ControlPlane:
        return ControlPlane(
            Path(self._attempt.control_plane_file),
            Path(self._attempt.attempt_dir) / env.TOKEN_TRAINER,
            retry=retry,
            wait=wait,
        )

    def _register(self, control_plane: ControlPlane) -> float:
        """Waits out an outage: the scheduler has given us the node, nothing is gained by giving
        it back. Raises ``AttemptSuperseded``."""
        message = RegisterTrainer(
            contract_version=CONTRACT_VERSION,
            run_id=self._attempt.run_id,
            attempt=self._attempt.attempt,
            job_name=self._identity.job_name,
            generation=self._identity.generation,
            scheduler_job_id=self._identity.scheduler_job_id,
            hostname=socket.gethostname(),
            pid=os.getpid(),
        )
        try:
            return control_plane.register_trainer(message).heartbeat_s
        except (Superseded, Conflict) as error:
            raise AttemptSuperseded(str(error)) from error

    def _beat(self, control_plane: ControlPlane, every_s: float) -> None:
        while not self._done.wait(every_s):
            try:
                answer = control_plane.trainer_heartbeat(self._heartbeat())
            except (Superseded, Conflict) as error:
                self._stop.set(ExitResult.SUPERSEDED, str(error))
                return
            except Unavailable:
                continue
            except ControlPlaneError as error:
                log.error("heartbeat refused: %s", error)
                continue
            if answer.stop:
                self._stop.set(ExitResult.SUPERSEDED, "the control plane asked this job to stop")
                return
            if answer.drain:
                self._stop.set(ExitResult.DRAINED, "the control plane asked this job to drain")

    def _heartbeat(self) -> TrainerHeartbeat:
        return TrainerHeartbeat(
            run_id=self._attempt.run_id,
            attempt=self._attempt.attempt,
            generation=self._identity.generation,
            job_name=self._identity.job_name,
            phase=self._status.phase,
            step=self._status.step,
            steps_total=self._attempt.spec.trainer.steps,
        )

    def _write_record(self, ending: Ending) -> None:
        record = ExitRecord(
            contract_version=CONTRACT_VERSION,
            run_id=self._attempt.run_id,
            attempt=self._attempt.attempt,
            role=_ROLE,
            index=self._identity.index,
            generation=self._identity.generation,
            result=ending.result,
            exit_code=ending.exit_code,
            detail=ending.detail[-4000:],
            last_step=ending.last_step,
        )
        write_durably(self._record_path(), record.model_dump_json())

    def _record_path(self) -> Path:
        identity = self._identity
        return env.exit_record_path(
            Path(self._attempt.attempt_dir), _ROLE, identity.index, identity.generation
        )


def write_durably(path: Path, text: str) -> None:
    """Whole or not at all, also when the node dies right after."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)


def stop_on_signals(job: TrainerJob) -> None:
    """SIGTERM comes from the scheduler: the time is up, or somebody cancelled."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda got, _: job.ask_to_stop(f"signal {signal.Signals(got).name}"))
