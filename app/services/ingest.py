"""Report batches of trainers become rows. Facts never change the state of a run."""

from datetime import datetime

from sqlalchemy.orm import Session

from app.db import events, facts
from app.db.tables import Checkpoint, Finding, ReportSequence, Rollout, RolloutBody, StepMetrics
from app.services.findings import is_complete, symptoms
from app.services.text import clean, finite, moment
from app.services.workers import Worker, current, require_own, require_version
from workers.contract.reports import (
    CheckpointReport,
    FindingReport,
    PhaseReport,
    Report,
    ReportBatch,
    RolloutReport,
    RolloutState,
    StepReport,
)
from workers.contract.spec import RunSpec


def take(session: Session, worker: Worker, batch: ReportBatch, *, at: datetime) -> bool:
    """Store a batch; False, and nothing done, when it had been stored before.

    1. Refuse other people's runs, other contract versions, attempts that are over.
    2. Note (attempt, source, sequence); a repeat ends here.
    3. Store each report; a report of the same thing replaces the older one.
    4. Look at the steps that are complete now for what is wrong with them.
    """
    require_own(worker, batch)
    require_version(batch.contract_version)
    run, attempt = current(session, worker)
    sequence = ReportSequence(
        run_id=run.id,
        attempt=attempt.number,
        source=batch.source,
        sequence=batch.sequence,
        at=at,
    )
    if not facts.accept(session, sequence):
        return False
    for report in batch.reports:
        _store(session, worker, report, at)
    _announce(session, worker, batch, at)
    _judge(session, worker, batch, RunSpec.model_validate(run.spec), at)
    return True


def _store(session: Session, worker: Worker, report: Report, at: datetime) -> None:
    match report:
        case RolloutReport():
            _store_rollout(session, worker, report, at)
        case StepReport():
            facts.put(session, _step(worker, report))
        case CheckpointReport():
            _store_checkpoint(session, worker, report, at)
        case PhaseReport():
            _announce_phase(session, worker, report, at)
        case FindingReport():
            finding = Finding(
                code=clean(report.code, 64),
                severity=report.severity,
                text=clean(report.text),
                step=report.step,
                at=moment(report.at),
            )
            _find(session, worker, finding, at)


def _store_rollout(session: Session, worker: Worker, report: RolloutReport, at: datetime) -> None:
    known = session.get(Rollout, report.rollout_id)
    if known is not None and (known.run_id, known.attempt) != (worker.run_id, worker.attempt):
        return  # ids are random: what another attempt reported is never overwritten
    rollout = _rollout(worker, report)
    if report.reward is not None and rollout.reward is None:
        _find(session, worker, _without_ground(report, at), at)
    facts.put(session, rollout)
    body = report.model_dump(mode="json", include={"turns", "patch", "grade", "calls", "phase_s"})
    facts.put(session, RolloutBody(rollout_id=report.rollout_id, body=facts.pack(body)))


def _rollout(worker: Worker, report: RolloutReport) -> Rollout:
    scored = report.state is RolloutState.SCORED
    return Rollout(
        id=report.rollout_id,
        run_id=worker.run_id,
        attempt=worker.attempt,
        step=report.step,
        group=clean(report.group, 100),
        sample=report.sample,
        try_number=report.try_number,
        task_id=clean(report.task_id, 200),
        validation=report.validation,
        state=report.state,
        end=report.end,
        invalid_reason=report.invalid_reason,
        detail=clean(report.detail),
        # Whatever a worker says: only a graded rollout has a reward.
        reward=finite(report.reward) if scored else None,
        graded=report.grade is not None and report.grade.sandbox_id is not None,
        turns_count=report.calls.turns,
        calls_parsed=report.calls.parsed,
        calls_executed=report.calls.executed,
        calls_malformed=sum(report.calls.malformed.values()),
        prompt_tokens=report.prompt_tokens,
        response_tokens=report.response_tokens,
        trainable_tokens=report.trainable_tokens,
        policy_version=report.policy_version,
        runtime_index=report.runtime_index,
        runtime_generation=report.runtime_generation,
        sandbox_id=report.sandbox_id,
        hostname=clean(report.hostname, 200) if report.hostname is not None else None,
        started_at=moment(report.started_at),
        ended_at=moment(report.ended_at),
    )


def _without_ground(report: RolloutReport, at: datetime) -> Finding:
    return Finding(
        code="reward_without_grade",
        severity="error",
        text=f"Rollout {clean(report.rollout_id)} is {report.state} but came with reward "
        f"{report.reward}; the reward was dropped",
        step=report.step,
        at=at,
    )


def _step(worker: Worker, report: StepReport) -> StepMetrics:
    metrics = {clean(name): finite(value) for name, value in report.metrics.items()}
    return StepMetrics(
        run_id=worker.run_id,
        attempt=worker.attempt,
        step=report.step,
        metrics=metrics,
        at=moment(report.at),
    )


def _store_checkpoint(
    session: Session, worker: Worker, report: CheckpointReport, at: datetime
) -> None:
    checkpoint = Checkpoint(
        run_id=worker.run_id,
        attempt=worker.attempt,
        step=report.step,
        path=clean(report.path),
        complete=report.complete,
        bytes=report.bytes,
        parts=dict(report.parts),
        detail=clean(report.detail),
        at=moment(report.at),
    )
    facts.put(session, checkpoint)
    word = "complete" if report.complete else "partial"
    events.append(
        session,
        kind="checkpoint.reported",
        text=f"Checkpoint of step {report.step} is {word}",
        at=at,
        run_id=worker.run_id,
        data={"attempt": worker.attempt, "step": report.step, "complete": report.complete},
        actor="trainer",
    )


def _announce_phase(session: Session, worker: Worker, report: PhaseReport, at: datetime) -> None:
    phase = clean(report.phase, 32)
    seconds = finite(report.seconds)
    took = f" took {seconds:.1f} s" if seconds is not None else ""
    events.append(
        session,
        kind="trainer.phase",
        text=f"Trainer: {phase}{took} (step {report.step})",
        at=at,
        run_id=worker.run_id,
        data={"attempt": worker.attempt, "phase": phase, "step": report.step, "seconds": seconds},
        actor="trainer",
    )


def _announce(session: Session, worker: Worker, batch: ReportBatch, at: datetime) -> None:
    """One event for all rollouts and steps of a batch: it rings the doorbell of the pages."""
    rollouts = sum(isinstance(report, RolloutReport) for report in batch.reports)
    steps = [report.step for report in batch.reports if isinstance(report, StepReport)]
    data: dict[str, int | None] = {
        "attempt": worker.attempt,
        "rollouts": rollouts,
        "step": max(steps, default=None),
    }
    if rollouts or steps:
        told = [f"{rollouts} rollout{'s' * (rollouts != 1)} reported"] if rollouts else []
        told += [f"step {max(steps)} is done"] if steps else []
        events.append(
            session,
            kind="rollouts.reported" if rollouts else "step.reported",
            text="; ".join(told),
            at=at,
            run_id=worker.run_id,
            data=data,
            actor="trainer",
        )


def _judge(
    session: Session, worker: Worker, batch: ReportBatch, spec: RunSpec, at: datetime
) -> None:
    steps = {r.step for r in batch.reports if isinstance(r, RolloutReport) and not r.validation}
    steps |= {r.step - 1 for r in batch.reports if isinstance(r, StepReport)}
    pairs = [(worker.attempt, step) for step in sorted(steps) if step > 0]
    if not pairs:
        return
    expected = spec.trainer.prompts_per_step * spec.trainer.rollouts_per_prompt
    last = facts.last_metrics_step(session, worker.run_id, worker.attempt)
    for totals in facts.step_totals(session, worker.run_id, pairs):
        if is_complete(totals, expected, last):
            for symptom in symptoms(totals):
                finding = Finding(
                    code=symptom.code,
                    severity=symptom.severity,
                    text=symptom.text,
                    step=totals.step,
                    at=at,
                )
                _find(session, worker, finding, at)


def _find(session: Session, worker: Worker, finding: Finding, at: datetime) -> None:
    finding.run_id = worker.run_id
    finding.attempt = worker.attempt
    if facts.add_finding(session, finding):
        events.append(
            session,
            kind="finding.reported",
            text=finding.text,
            at=at,
            run_id=worker.run_id,
            data={"code": finding.code, "severity": finding.severity, "step": finding.step},
            actor="trainer",
        )
