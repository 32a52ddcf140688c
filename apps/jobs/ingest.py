"""Taking in what trainers say. Replayed and reordered messages change nothing."""

import logging
from collections.abc import Callable, Sequence
from copy import copy
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Max
from django.utils import timezone
from pydantic import TypeAdapter

from apps.jobs import transitions
from apps.jobs.errors import SupersededError
from apps.jobs.models import Artifact, Attempt, EpochMetrics, Event, Job
from apps.jobs.services import LIVE_FIELDS_AT_START
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
from trainer.contract.variables import artifact_prefix
from trainer.store import InvalidKeyError, check_key

logger = logging.getLogger(__name__)

_EVENTS: TypeAdapter[list[AnyEvent]] = TypeAdapter(list[AnyEvent])
# Whoever expects longer than this expects nothing that can be shown.
_LONGEST_SECONDS = timedelta(days=3650).total_seconds()
_NODE_LENGTH = Attempt._meta.get_field("node").max_length


def ingest(job_id: int, attempt_number: int, events: Sequence[AnyEvent]) -> Answer:
    """Record `events` of one attempt and draw the conclusions, all in one transaction.

    Raises:
        Job.DoesNotExist: no such job.
        SupersededError: the attempt is not the job's current one. Nothing was written.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().get(pk=job_id)
        attempt = job.attempts.filter(number=attempt_number).first()
        # In the queue again after a retry, a job belongs to its next attempt.
        if attempt is None or attempt_number != job.attempt_number or job.state == State.QUEUED:
            raise SupersededError(
                f"Attempt {attempt_number} of job {job_id} is not the current one ({job.attempt_number}): stop."
            )
        newest = Event.objects.filter(attempt=attempt).aggregate(seq=Max("seq"))["seq"] or 0
        new = _record(attempt, events)
        if new and new[0].seq < newest:
            new = _from_the_start(job, attempt)
        if new:
            _note_contact(job, attempt)
        for event in new:
            _APPLY[type(event)](job, attempt, event)
        if new:
            _advance_ack(attempt)
            attempt.save(update_fields=_ATTEMPT_FIELDS)
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
# Not all of them: the launch and the reconciler write theirs without waiting for us.
_ATTEMPT_FIELDS = [
    "node",
    "started_at",
    "last_message_at",
    "acked_seq",
    "progress_seq",
    "mlflow_experiment_id",
    "mlflow_run_id",
    "versions",
]


def _from_the_start(job: Job, attempt: Attempt) -> list[AnyEvent]:
    """Every message so far, to be applied anew to a job that has heard nothing yet.

    For a message that came after a later one, which is rare: whatever the order, the same is known in the end.
    """
    for name, value in LIVE_FIELDS_AT_START.items():
        setattr(job, name, copy(value))
    attempt.progress_seq = 0
    rows = Event.objects.filter(attempt=attempt).order_by("seq").values("seq", "type", "at", "data")
    return _EVENTS.validate_python(list(rows))


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
    attempt.node = event.data.host[:_NODE_LENGTH] or attempt.node
    attempt.versions = {**event.data.versions, "device": event.data.device}


def _progress(job: Job, attempt: Attempt, event: ProgressEvent) -> None:
    said = event.data
    if said.mlflow_run_id:
        attempt.mlflow_run_id = said.mlflow_run_id
        attempt.mlflow_experiment_id = said.mlflow_experiment_id
    if event.seq <= attempt.progress_seq:
        return  # a later one has been heard already
    attempt.progress_seq = event.seq
    job.phase = said.phase
    if said.fraction is not None:
        job.fraction = said.fraction
    if said.losses:
        job.losses = said.losses
    job.expected_end_at = None if job.ended else _expected_end(event.at, said.eta_seconds)


def _expected_end(at: datetime, eta_seconds: float | None) -> datetime | None:
    # The trainer's clock may be wrong: what counts from its word is the time left, not the time of day.
    late = min(abs((timezone.now() - at).total_seconds()), 60.0)
    if eta_seconds is None:
        return None
    return timezone.now() + timedelta(seconds=min(max(eta_seconds - late, 0), _LONGEST_SECONDS))


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
    job.fraction = max(job.fraction, min(said.epoch / said.epochs, 1.0))
    if row is None:
        _best_of(job, said.epoch, said.metrics)
        return
    job.best_epoch, job.best_fitness, job.best_metrics = None, None, {}
    for epoch, metrics in attempt.epoch_metrics.values_list("epoch", "metrics"):
        _best_of(job, epoch, metrics)


def _best_of(job: Job, epoch: int, metrics: dict[str, float | None]) -> None:
    """Make `epoch` the best where it is fitter than the best so far, or as fit and earlier."""
    fitness = metrics.get("fitness")
    if fitness is None:
        return
    if job.best_fitness is None or (fitness, -epoch) > (job.best_fitness, -(job.best_epoch or 0)):
        job.best_fitness, job.best_epoch, job.best_metrics = fitness, epoch, metrics


def is_own_key(attempt: Attempt, key: str) -> bool:
    """Whether `key` lies where the attempt was told to store: downloads and retention act on what is recorded."""
    try:
        return check_key(key).startswith(artifact_prefix(attempt.job.project_id, attempt.job_id, attempt.number) + "/")
    except InvalidKeyError:
        return False


def _artifact(job: Job, attempt: Attempt, event: ArtifactEvent) -> None:
    said = event.data
    if not is_own_key(attempt, said.key):
        # Acknowledged all the same, or it would come again and again; the page of the job tells of it too.
        logger.warning("%s says that it stored %r, which is none of its keys: not recorded.", attempt.name, said.key)
        return
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
        transitions.end(job, EndReason.FINISHED, by=transitions.TRAINER, message=event.data.note)
    if job.state == State.SUCCEEDED:
        job.fraction, job.phase = 1.0, ""


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
        evidence=f"stopped by {event.data.by}" + (f" after epoch {event.data.epoch}" if event.data.epoch else ""),
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
