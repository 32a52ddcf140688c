"""Who goes next: waiting jobs to free slots, by priority and then in order."""

import logging
import socket

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from pydantic import ValidationError

from apps.executor.base import LaunchSpec, Slot
from apps.executor.errors import LaunchError
from apps.executor.registry import get_executor
from apps.jobs import transitions
from apps.jobs.environment import build_environment
from apps.jobs.models import Attempt, Job
from apps.jobs.states import EndReason, State
from trainer.contract.variables import SECRET_NAMES, in_words

logger = logging.getLogger(__name__)

CLAIM_TRIES = 50


def dispatch() -> int:
    """Launch every waiting job that a slot is free for; say why the others wait. Returns how many were launched."""
    launched = 0
    while (attempt := _claim_next()) is not None:
        launch(attempt)
        launched += 1
    _say_why_they_wait()
    return launched


def launch(attempt: Attempt) -> None:
    """Hand a claimed attempt to the executor. Safe to repeat: executors launch a name once.

    A launch that fails ends the job with the reason in words; the slot is free again.
    """
    job = attempt.job
    try:
        environment = build_environment(job, attempt.number)
    except ValidationError as error:
        if reference := get_executor().find(attempt.name):
            # Launched by a worker that died before it noted so; settings have changed since, and it runs all the same.
            Attempt.objects.filter(pk=attempt.pk, ended_at=None).update(reference=reference)
            return
        message = "\n".join(in_words(e) if e["loc"] else str(e["ctx"]["error"]) for e in error.errors())
        give_up(attempt, EndReason.BAD_CONFIGURATION, message)
        return
    spec = LaunchSpec(
        name=attempt.name,
        environment=environment.to_environ(),
        secret_names=SECRET_NAMES & environment.to_environ().keys(),
        devices=tuple(attempt.devices),
        grace_seconds=settings.STOP_GRACE_SECONDS,
    )
    try:
        launched = get_executor().launch(spec)
    except LaunchError as error:
        logger.warning("%s could not be launched: %s", attempt.name, error)
        give_up(attempt, EndReason.LAUNCH_FAILED, str(error))
        return
    noted = Attempt.objects.filter(pk=attempt.pk, ended_at=None).update(
        reference=launched.reference, node=launched.node, log_location=launched.log_location
    )
    if not noted:
        # Cancelled and given up while its launch was under way: nobody else would look after this trainer.
        get_executor().stop(launched.reference, force=True)


def give_up(attempt: Attempt, reason: EndReason, message: str) -> None:
    """End an attempt that never had a trainer, and its job with it."""
    with transaction.atomic():
        job = Job.objects.select_for_update().get(pk=attempt.job_id)
        if not Attempt.objects.filter(pk=attempt.pk, ended_at=None).update(ended_at=timezone.now(), evidence=message):
            return
        if job.state == State.CANCELLING:
            transitions.end(job, EndReason.CANCELLED, by=transitions.PLATFORM, evidence=message)
        elif job.active:
            transitions.end(job, reason, by=transitions.PLATFORM, message=message)


def _claim_next() -> Attempt | None:
    """Lease a free slot to the first job in the queue, or None where there is no slot or no job."""
    for _try in range(CLAIM_TRIES):
        slot = _free_slot()
        job = _ready().select_related("project", "dataset_version").first()
        if slot is None or job is None:
            return None
        try:
            with transaction.atomic():
                number = job.attempt_number + 1
                attempt = Attempt.objects.create(
                    job=job,
                    number=number,
                    slot=slot.name,
                    devices=list(slot.devices),
                    executor=settings.EXECUTOR,
                    node=socket.gethostname(),
                )
                moved = transitions.move(
                    job,
                    State.LAUNCHING,
                    by=transitions.PLATFORM,
                    evidence=f"leased {slot.name}",
                    attempt_number=number,
                    pending_reason="",
                )
                if not moved:
                    transaction.set_rollback(True)
        except IntegrityError:
            continue  # another worker took the slot or the job: look again
        if moved:
            return attempt
    logger.warning("Others took every job that was tried for; the next pass looks again.")
    return None


def _queue() -> QuerySet[Job]:
    return Job.objects.filter(state=State.QUEUED).order_by("-priority", "queued_at", "id")


def _ready() -> QuerySet[Job]:
    """The queue less the jobs whose previous trainer has not been seen to end: a job has one at a time."""
    return _queue().exclude(Exists(Attempt.objects.filter(job=OuterRef("pk"), ended_at=None)))


def _free_slot() -> Slot | None:
    taken = set(Attempt.objects.filter(ended_at=None).values_list("slot", flat=True))
    return next((slot for slot in get_executor().slots() if slot.name not in taken), None)


def _say_why_they_wait() -> None:
    waiting = list(_queue()[:200])
    if not waiting:
        return
    slots = get_executor().slots()
    tenants = dict(Attempt.objects.filter(ended_at=None).order_by("slot").values_list("job_id", "slot"))
    for position, job in enumerate(waiting, start=1):
        reason = _why(position, job, tenants, any_slot=bool(slots))[:300]
        if job.pending_reason != reason:
            Job.objects.filter(pk=job.pk, state=State.QUEUED).update(pending_reason=reason)


def _why(position: int, job: Job, tenants: dict[int, str], *, any_slot: bool) -> str:
    """`tenants` maps the jobs that hold a slot to its name."""
    if job.pk in tenants:
        return _("Waits for its previous attempt to end (%(slot)s).") % {"slot": tenants[job.pk]}
    if not any_slot:
        return _("No slot is configured: set TRAINER_DEVICES or CPU_SLOTS.")
    if not tenants:
        return _("Number %(position)s in the queue; about to start.") % {"position": position}
    taken = ", ".join(f"{slot}: {_('job')} {tenant}" for tenant, slot in tenants.items())
    return _("Number %(position)s in the queue; every slot is taken (%(taken)s).") % {
        "position": position,
        "taken": taken,
    }
