"""What is deleted of ended jobs, and why: checkpoints by their project's rules, and leftovers that nobody needs.

`plan` says what would go, `enforce` does it. Between the two a person may have retried a job or started another from a
checkpoint, so that each removal looks again before it acts, and is done in an order that can be interrupted anywhere:
first nobody is shown the thing any more, then it goes from the store, then that is written down. What was interrupted
is finished by the next run.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from apps.executor.errors import ExecutorError
from apps.jobs import leftovers
from apps.jobs.models import Artifact, Attempt, Job
from apps.jobs.removals import Removal
from apps.jobs.states import ENDED
from apps.projects.models import Project
from apps.storage.stores import get_store
from trainer.contract.messages import ArtifactKind
from trainer.store import StoreError

logger = logging.getLogger(__name__)

CHECKPOINTS = (ArtifactKind.BEST, ArtifactKind.LAST, ArtifactKind.CHECKPOINT)


@dataclass(frozen=True)
class ArtifactRemoval(Removal):
    artifact: Artifact

    def remove(self) -> bool:
        if not _take_off_the_lists(self.artifact):
            return False
        get_store().delete(self.artifact.key)
        Artifact.objects.filter(pk=self.artifact.pk).update(deleted_at=timezone.now())
        return True


@dataclass
class Outcome:
    """What `enforce` did. `spared` are those that somebody needs again since they were planned."""

    removed: list[Removal] = field(default_factory=list)
    spared: list[Removal] = field(default_factory=list)
    failed: list[tuple[Removal, Exception]] = field(default_factory=list)

    @property
    def freed(self) -> int:
        """Bytes."""
        return sum(removal.size for removal in self.removed)


def plan(project: Project | None = None) -> list[Removal]:
    """What would be deleted now, of one project or of all. Nothing is changed. Raises StoreError."""
    projects = Project.objects.filter(pk=project.pk) if project else Project.objects.all()
    wanted = leftovers.wanted_keys()
    removals: list[Removal] = list(_interrupted(projects))
    for each in projects:
        removals += _checkpoints(each, wanted)
        removals += leftovers.of_deleted_jobs(each, wanted)
    removals += leftovers.of_ended_attempts(projects)
    return removals


def enforce(removals: Iterable[Removal]) -> Outcome:
    """Remove what was planned. One that fails keeps none of the others; the next run tries it again."""
    outcome = Outcome()
    for removal in removals:
        try:
            (outcome.removed if removal.remove() else outcome.spared).append(removal)
        except (StoreError, ExecutorError, OSError) as error:
            logger.warning("%s could not be removed: %s", removal.what, error)
            outcome.failed.append((removal, error))
    return outcome


def condemned(project: Project, checkpoints: Sequence[Artifact], age: timedelta) -> Iterator[tuple[Artifact, str]]:
    """Those of one attempt's stored checkpoints that the project's rules do not keep, and why.

    `age` is the time since the job ended. One checkpoint always stays: the best, or the last where the best is not
    kept or not there.
    """
    kinds = [ArtifactKind.BEST, ArtifactKind.LAST] if project.keep_best else [ArtifactKind.LAST, ArtifactKind.BEST]
    order = [*kinds, ArtifactKind.CHECKPOINT]
    survivor = min(checkpoints, key=lambda each: (order.index(ArtifactKind(each.kind)), -(each.epoch or 0)))
    expired = project.keep_days is not None and age > timedelta(days=project.keep_days)
    every = project.keep_every or 1
    for each in checkpoints:
        if each is survivor:
            continue
        if each.kind == ArtifactKind.BEST and not project.keep_best:
            yield each, _("the project does not keep best checkpoints")
        elif each.kind == ArtifactKind.LAST and not project.keep_last:
            yield each, _("the project does not keep last checkpoints")
        elif each.kind == ArtifactKind.CHECKPOINT and (each.epoch or 0) % every:
            yield each, _("the project keeps the checkpoint of every %(n)d epochs") % {"n": every}
        elif expired:
            told = {"days": project.keep_days, "kept": survivor.name}
            yield each, _("the job ended over %(days)d days ago: of its attempt, %(kept)s alone is kept") % told


def _checkpoints(project: Project, wanted: frozenset[str]) -> Iterator[ArtifactRemoval]:
    if project.keep_best and project.keep_last and project.keep_every is None and project.keep_days is None:
        return
    live = Attempt.objects.filter(ended_at=None, job__project=project)
    stored = (
        Artifact.objects.filter(attempt__job__project=project, attempt__job__state__in=ENDED, kind__in=CHECKPOINTS)
        .filter(removed_at=None)
        .exclude(attempt__job__in=live.values("job"))
        .select_related("attempt__job")
        .order_by("attempt_id", "epoch", "name")
    )
    now = timezone.now()
    for attempt, rows in groupby(stored.iterator(), key=lambda artifact: artifact.attempt):
        age = now - (attempt.job.ended_at or now)
        for artifact, why in condemned(project, list(rows), age):
            if artifact.key not in wanted:
                yield _removal(artifact, why)


def _interrupted(projects: QuerySet[Project]) -> Iterator[ArtifactRemoval]:
    begun = Artifact.objects.filter(Q(removed_at__isnull=False), deleted_at=None, attempt__job__project__in=projects)
    for artifact in begun.select_related("attempt"):
        yield _removal(artifact, _("its removal was begun and not finished"))


def _removal(artifact: Artifact, why: str) -> ArtifactRemoval:
    attempt = artifact.attempt
    words = {"job": attempt.job_id, "attempt": attempt.number, "name": artifact.name}
    what = _("job %(job)s, attempt %(attempt)s: %(name)s") % words
    return ArtifactRemoval(what=what, why=why, size=artifact.size, artifact=artifact)


def _take_off_the_lists(planned: Artifact) -> bool:
    """Mark the artifact as removed, unless it has come into use since it was planned."""
    with transaction.atomic():
        # The job's lock first, as whoever takes in messages does.
        job = Job.objects.select_for_update().filter(pk=planned.attempt.job_id).first()
        artifact = Artifact.objects.select_for_update().filter(pk=planned.pk).first()
        if job is None or artifact is None:
            return False  # deleted: the leftovers of its job are another removal
        if artifact.removed_at is None:
            in_use = not job.ended or job.attempts.filter(ended_at=None).exists() or leftovers.is_wanted(artifact.key)
            if in_use or artifact.seq != planned.seq:
                return False
            artifact.removed_at = timezone.now()
            artifact.save(update_fields=["removed_at"])
    return True
