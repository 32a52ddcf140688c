"""Reading jobs on somebody's behalf."""

from dataclasses import dataclass

from django.db.models import QuerySet

from apps.executor.base import LogChunk
from apps.executor.registry import get_executor
from apps.jobs.models import Artifact, Attempt, EpochMetrics, Event, Job
from apps.projects.rights import Person, projects_of


def jobs_of(person: Person) -> QuerySet[Job]:
    """The jobs that `person` may see, with what every list shows of them."""
    return Job.objects.filter(project__in=projects_of(person)).select_related(
        "project", "dataset_version__dataset", "created_by"
    )


def epoch_metrics(attempt: Attempt) -> QuerySet[EpochMetrics]:
    return EpochMetrics.objects.filter(attempt=attempt).order_by("epoch")


def events(attempt: Attempt, *, after: int = 0) -> QuerySet[Event]:
    """Events with a number above `after`, oldest first."""
    return Event.objects.filter(attempt=attempt, seq__gt=after).order_by("seq")


def artifacts(attempt: Attempt) -> QuerySet[Artifact]:
    """What the attempt stored, less what retention has removed."""
    return Artifact.objects.filter(attempt=attempt, removed_at=None)


def artifacts_of(job: Job) -> QuerySet[Artifact]:
    """As `artifacts`, of all attempts at the job."""
    return Artifact.objects.filter(attempt__job=job, removed_at=None).select_related("attempt")


@dataclass(frozen=True)
class Series:
    """One metric over the epochs of an attempt. `values` has None where an epoch has no finite value."""

    name: str
    epochs: list[int]
    values: list[float | None]


def metric_series(attempt: Attempt) -> list[Series]:
    """Every metric of the attempt as a curve, by name."""
    rows = list(epoch_metrics(attempt).values_list("epoch", "metrics"))
    names = sorted({name for _, metrics in rows for name in metrics})
    epochs = [epoch for epoch, _ in rows]
    return [Series(name, epochs, [metrics.get(name) for _, metrics in rows]) for name in names]


def missing_events(attempt: Attempt) -> int:
    """How many messages between the first and the newest have not arrived."""
    # Counted from where all are known to have arrived: of those before, heartbeats may have been deleted.
    later = Event.objects.filter(attempt=attempt, seq__gt=attempt.acked_seq)
    newest = later.order_by("-seq").values_list("seq", flat=True).first()
    return 0 if newest is None else newest - attempt.acked_seq - later.count()


def read_log(attempt: Attempt, *, offset: int = 0, limit: int = 65_536) -> LogChunk:
    """Bytes of the attempt's log; a negative `offset` counts from the end. Empty before the launch.

    Raises:
        ExecutorError: the log cannot be had; the message says why.
    """
    if not attempt.reference:
        return LogChunk(b"", 0, 0)
    return get_executor().logs(attempt.reference, offset=offset, limit=limit)
