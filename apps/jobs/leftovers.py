"""What remains where nobody looks: working files and heartbeats of ended attempts, and objects of deleted jobs."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db.models import Exists, Max, OuterRef, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from apps.executor.errors import ExecutorError, UnknownReferenceError
from apps.executor.registry import get_executor
from apps.jobs.models import Artifact, Attempt, EpochMetrics, Event, Job
from apps.jobs.removals import Removal
from apps.jobs.states import ENDED
from apps.projects.models import Project
from apps.storage.stores import get_store
from trainer.contract.messages import ArtifactKind

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttemptRemoval(Removal):
    """The working files of an attempt (what it fetched and drew, checkpoints that are in the store) and its heartbeats.

    What else it said stays, and so does its log.
    """

    attempt: Attempt

    def remove(self) -> bool:
        with suppress(UnknownReferenceError):  # somebody removed the folder itself
            get_executor().cleanup(self.attempt.reference)
        # Those that are acknowledged: they never come again.
        Event.objects.filter(attempt=self.attempt, type="progress", seq__lte=self.attempt.acked_seq).delete()
        Attempt.objects.filter(pk=self.attempt.pk).update(cleaned_at=timezone.now())
        return True


@dataclass(frozen=True)
class PrefixRemoval(Removal):
    """All objects of a job that has been deleted."""

    prefix: str
    job_id: int

    def remove(self) -> bool:
        if Job.objects.filter(pk=self.job_id).exists() or is_wanted(self.prefix):
            return False
        get_store().delete_prefix(self.prefix)
        return True


def wanted_keys() -> frozenset[str]:
    """The keys that jobs which have not ended start from."""
    return frozenset(Job.objects.exclude(state__in=ENDED).exclude(weights="").values_list("weights", flat=True))


def is_wanted(key: str) -> bool:
    """Whether a job that has not ended starts from `key`, or from something below it."""
    named = Q(weights=key) | Q(weights__startswith=f"{key}/")
    return Job.objects.exclude(state__in=ENDED).filter(named).exists()


def clean_up(references: Iterable[str]) -> None:
    """Remove the working files of attempts whose job is deleted: afterwards nothing here tells of them any more."""
    for reference in references:
        try:
            get_executor().cleanup(reference)
        except (ExecutorError, OSError) as error:
            logger.warning("The working files of %s stay: %s", reference, error)


def of_ended_attempts(projects: QuerySet[Project]) -> Iterator[AttemptRemoval]:
    """Of attempts that ended long ago. One that learnt something and stored no checkpoint keeps what it has."""
    long_ago = timezone.now() - timedelta(days=settings.ATTEMPTS_KEPT_DAYS)
    stored = Artifact.objects.filter(attempt=OuterRef("pk"), kind__in=(ArtifactKind.BEST, ArtifactKind.LAST))
    learnt = EpochMetrics.objects.filter(attempt=OuterRef("pk"))
    ended = Attempt.objects.filter(ended_at__lt=long_ago, cleaned_at=None, job__project__in=projects)
    executor, days = get_executor(), settings.ATTEMPTS_KEPT_DAYS
    for attempt in ended.exclude(reference="").filter(Exists(stored) | ~Exists(learnt)).order_by("pk"):
        yield AttemptRemoval(
            what=_("working files and heartbeats of %(attempt)s") % {"attempt": attempt.name},
            why=_("it ended over %(days)d days ago") % {"days": days},
            size=executor.working_size(attempt.reference),
            attempt=attempt,
        )


def of_deleted_jobs(project: Project, wanted: frozenset[str]) -> Iterator[PrefixRemoval]:
    """Found by listing the project's jobs in the store. Raises StoreError.

    A job with a number above every known one was never seen here: the database is an older copy, restored.
    """
    top = f"projects/{project.pk}/jobs"
    sizes, counts = Counter[str](), Counter[str]()
    for stored in get_store().list(top):
        number = stored.key.removeprefix(f"{top}/").partition("/")[0]
        sizes[number] += stored.size
        counts[number] += 1
    # Looked up after the listing: a job is in the database before it stores anything.
    newest = Job.objects.aggregate(newest=Max("pk"))["newest"] or 0
    found = {int(number) for number in counts if number.isdecimal() and number.isascii() and int(number) < newest}
    for job_id in sorted(found - set(Job.objects.filter(pk__in=found).values_list("pk", flat=True))):
        prefix, count = f"{top}/{job_id}", counts[str(job_id)]
        if any(key.startswith(f"{prefix}/") for key in wanted):
            continue
        what = ngettext("%(n)d object below %(prefix)s", "%(n)d objects below %(prefix)s", count)
        yield PrefixRemoval(
            what=what % {"n": count, "prefix": prefix},
            why=_("job %(id)s has been deleted") % {"id": job_id},
            size=sizes[str(job_id)],
            prefix=prefix,
            job_id=job_id,
        )
