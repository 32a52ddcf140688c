"""Taking in what trainers say. Replayed and reordered messages change nothing."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from apps.jobs import transitions
from apps.jobs.errors import SupersededError
from apps.jobs.models import Artifact, Attempt, EpochMetrics, Event, Job
from apps.jobs.states import OF_FAILURE, EndReason, State
from trainer.contract.exits import ADVICE
from trainer.contract.messages import (
    Answer,
    AnyEvent,
    ArtifactEvent,
    Command,
    EpochEvent,
    FailedEvent,
    FinishedEvent,
    InterruptedEvent,
    ProgressEvent,
    StartedEvent,
)


def ingest(job_id: int, attempt_number: int, events: Sequence[AnyEvent]) -> Answer:
    """Record `events` of one attempt and draw the conclusions, all in one transaction.

    Raises:
        Job.DoesNotExist: no such job.
        SupersededError: the attempt is not the job's current one. Nothing was written.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().get(pk=job_id)
        attempt = job.attempts.filter(number=attempt_number).first()
        if attempt is None or attempt_number != job.attempt_number:
            raise SupersededError(
                f"Attempt {attempt_number} of job {job_id} is not the current one ({job.attempt_number}): stop."
            )
        new = _record(attempt, events)
        if new:
            _note_contact(job, attempt)
        for event in new:
            _APPLY[type(event)](job, attempt, event)
        if new:
            _advance_ack(attempt)
            attempt.save()
            job.save(update_fields=_LIVE_FIELDS)
    stop = job.state in (State.CANCELLING, State.CANCELLED, State.FAILED)
    return Answer(acked=attempt.acked_seq, command=Command.STOP if stop else Command.CONTINUE)


_LIVE_FIELDS = [
    "last_message_at",
    "started_at",
    "phase",
    "epoch",
    "fraction",
    "expected_end_at",
    "losses",
    "best_epoch",
    "best_fitness",
    "best_metrics",
]


def _record(attempt: Attempt, events: Sequence[AnyEvent]) -> list[AnyEvent]:
    """Store the events not seen before, in order, and return them."""
    known = set(Event.objects.filter(attempt=attempt, seq__in=[e.seq for e in events]).values_list("seq", flat=True))
    new = sorted({e.seq: e for e in events if e.seq not in known}.values(), key=lambda e: e.seq)
    Event.objects.bulk_create(
        Event(attempt=attempt, seq=e.seq, type=e.type, at=e.at, data=e.data.model_dump(mode="json")) for e in new
    )
    return new


def _advance_ack(attempt: Attempt) -> None:
    """Move the acknowledgement over every number that follows without a gap."""
    following = Event.objects.filter(attempt=attempt, seq__gt=attempt.acked_seq).order_by("seq")
    for seq in following.values_list("seq", flat=True).iterator():
        if seq != attempt.acked_seq + 1:
            break
        attempt.acked_seq = seq


def _note_contact(job: Job, attempt: Attempt) -> None:
    """Whatever it says, a trainer that speaks is running."""
    now = timezone.now()
    attempt.last_message_at = job.last_message_at = now
    if attempt.started_at is None:
        attempt.started_at = now
        job.started_at = job.started_at or now
    if job.state in (State.LAUNCHING, State.LOST):
        reason = "started" if job.state == State.LAUNCHING else "speaks again"
        transitions.move(job, State.RUNNING, by=transitions.TRAINER, reason=reason)


def _started(job: Job, attempt: Attempt, event: StartedEvent) -> None:
    attempt.node = event.data.host or attempt.node
    attempt.versions = {**event.data.versions, "device": event.data.device}


def _progress(job: Job, attempt: Attempt, event: ProgressEvent) -> None:
    said = event.data
    if said.mlflow_run_id:
        attempt.mlflow_run_id = said.mlflow_run_id
        attempt.mlflow_experiment_id = said.mlflow_experiment_id
    if event.seq <= attempt.progress_seq:
        return  # a later one has been heard already
    attempt.progress_seq = event.seq
    if job.ended:
        return
    job.phase = said.phase
    if said.fraction is not None:
        job.fraction = said.fraction
    if said.losses:
        job.losses = said.losses
    job.expected_end_at = _expected_end(event.at, said.eta_seconds)


def _expected_end(at: datetime, eta_seconds: float | None) -> datetime | None:
    # The trainer's clock may be wrong: what counts from its word is the time left, not the time of day.
    late = min(abs((timezone.now() - at).total_seconds()), 60.0)
    return None if eta_seconds is None else timezone.now() + timedelta(seconds=max(eta_seconds - late, 0))


def _epoch(job: Job, attempt: Attempt, event: EpochEvent) -> None:
    said = event.data
    row = EpochMetrics.objects.filter(attempt=attempt, epoch=said.epoch).first()
    if row is not None and row.seq > event.seq:
        return  # the epoch was repeated, and the repetition has been heard already
    EpochMetrics.objects.update_or_create(
        attempt=attempt,
        epoch=said.epoch,
        defaults={"seq": event.seq, "at": event.at, "seconds": said.seconds, "metrics": said.metrics},
    )
    job.epoch = max(job.epoch, said.epoch)
    if not job.ended:
        job.fraction = max(job.fraction, said.epoch / said.epochs)
    fitness = said.metrics.get("fitness")
    best = (job.best_fitness, -(job.best_epoch or 0))
    if fitness is not None and (best[0] is None or (fitness, -said.epoch) > best):
        job.best_fitness, job.best_epoch, job.best_metrics = fitness, said.epoch, said.metrics


def _artifact(job: Job, attempt: Attempt, event: ArtifactEvent) -> None:
    said = event.data
    row = Artifact.objects.filter(attempt=attempt, name=said.name).first()
    if row is not None and row.seq > event.seq:
        return
    Artifact.objects.update_or_create(
        attempt=attempt,
        name=said.name,
        defaults={
            "seq": event.seq,
            "kind": said.kind,
            "key": said.key,
            "size": said.size,
            "sha256": said.sha256,
            "epoch": said.epoch,
            "stored_at": event.at,
        },
    )


def _finished(job: Job, attempt: Attempt, event: FinishedEvent) -> None:
    if event.data.metrics:
        job.best_metrics = event.data.metrics
    if not job.ended:
        job.fraction, job.phase = 1.0, ""
        transitions.end(job, EndReason.FINISHED, by=transitions.TRAINER, message=event.data.note)


def _failed(job: Job, attempt: Attempt, event: FailedEvent) -> None:
    if job.ended:
        return
    said = event.data
    transitions.end(
        job,
        OF_FAILURE[said.reason],
        by=transitions.TRAINER,
        message=f"{said.message}\n{ADVICE[said.reason]}",
        evidence=said.traceback or said.message,
    )


def _interrupted(job: Job, attempt: Attempt, event: InterruptedEvent) -> None:
    if job.ended:
        return
    asked = job.state == State.CANCELLING
    transitions.end(
        job,
        EndReason.CANCELLED if asked else EndReason.INTERRUPTED,
        by=transitions.TRAINER,
        message="" if asked else f"The trainer was stopped by {event.data.by}; its last checkpoint is stored.",
        evidence=f"stopped by {event.data.by} in epoch {event.data.epoch}",
    )


_APPLY: dict[type[Any], Callable[[Job, Attempt, Any], None]] = {
    StartedEvent: _started,
    ProgressEvent: _progress,
    EpochEvent: _epoch,
    ArtifactEvent: _artifact,
    FinishedEvent: _finished,
    FailedEvent: _failed,
    InterruptedEvent: _interrupted,
}
