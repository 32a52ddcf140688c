"""What the database believes against what the executor sees.

Three answers are possible for each live attempt: alive, dead with evidence, unknown. Unknown never ends a job.
"""

import logging
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from apps.executor.base import Alive, Dead, Executor, Observation
from apps.executor.errors import ExecutorError, UnknownReferenceError
from apps.executor.registry import get_executor
from apps.jobs import scheduling, tasks, transitions
from apps.jobs.errors import SupersededError
from apps.jobs.ingest import ingest
from apps.jobs.models import Attempt, Job
from apps.jobs.states import OF_FAILURE, EndReason, State, reason_from_exit
from trainer.contract.exits import ADVICE
from trainer.contract.messages import MAX_EVENTS
from trainer.spool import read_events

logger = logging.getLogger(__name__)

# A claimed attempt without a reference for this long lost its worker between claiming and launching.
LAUNCH_PATIENCE = timedelta(seconds=15)
# Silence after which a trainer that the executor cannot see either counts as lost.
SILENCE = timedelta(seconds=90)


def reconcile() -> None:
    """Compare every live attempt with its executor, and mend what differs. Running it twice at once is harmless."""
    executor = get_executor()
    freed = False
    for attempt in Attempt.objects.filter(ended_at=None).select_related("job__project", "job__dataset_version"):
        try:
            freed |= _reconcile_one(executor, attempt)
        except ExecutorError as error:
            logger.warning("%s could not be observed: %s", attempt.name, error)
        except Exception:
            # Whatever is wrong with one attempt, the others must be seen to.
            logger.exception("%s could not be reconciled", attempt.name)
    if freed:
        tasks.wake_dispatcher()


def _reconcile_one(executor: Executor, attempt: Attempt) -> bool:
    """True where the attempt turned out dead, which frees its slot."""
    if not attempt.reference:
        _adopt_or_launch(executor, attempt)
        return False
    observation = executor.observe(attempt.reference)
    if isinstance(observation, Dead):
        _take_in_what_is_left(executor, attempt)
        _bury(attempt, observation)
        return True
    # Queued: a retry waits for this attempt, whose own job has ended, to leave.
    if attempt.job.ended or attempt.job.state in (State.CANCELLING, State.QUEUED):
        try:
            _see_that_it_stops(executor, attempt)
        except UnknownReferenceError as error:
            return _give_up_for_lost(attempt, str(error))
    elif not isinstance(observation, Alive):
        _lose_if_silent(attempt, observation)
    return False


def _adopt_or_launch(executor: Executor, attempt: Attempt) -> None:
    if timezone.now() - attempt.created_at < LAUNCH_PATIENCE:
        return
    if attempt.job.state == State.CANCELLING and executor.find(attempt.name) is None:
        scheduling.give_up(attempt, EndReason.CANCELLED, _("Cancelled before it was launched."))
        return
    logger.info("%s was claimed and not launched; launching it now.", attempt.name)
    scheduling.launch(attempt)


def _see_that_it_stops(executor: Executor, attempt: Attempt) -> None:
    """Ask once; the executor itself kills what outlives the grace. Ask with force where even that did not help."""
    now = timezone.now()
    if attempt.stop_requested_at is None:
        # An ended job's trainer has said its last word, and gets the time to leave by itself.
        patience = timedelta(seconds=settings.STOP_GRACE_SECONDS if attempt.job.ended else 0)
        if now - (attempt.job.ended_at or now) < patience:
            return
        if Attempt.objects.filter(pk=attempt.pk, stop_requested_at=None).update(stop_requested_at=now):
            executor.stop(attempt.reference)
    elif now - attempt.stop_requested_at > timedelta(seconds=settings.STOP_GRACE_SECONDS + 15):
        executor.stop(attempt.reference, force=True)


def _lose_if_silent(attempt: Attempt, observation: Observation) -> None:
    job = attempt.job
    attempt.refresh_from_db(fields=["last_message_at"])  # it may have spoken while it was looked for
    heard = attempt.last_message_at or attempt.created_at
    if job.state in (State.LAUNCHING, State.RUNNING) and timezone.now() - heard > SILENCE:
        evidence = _("Silent since %(heard)s, and the executor does not know: %(why)s") % {
            "heard": heard.isoformat(timespec="seconds"),
            "why": getattr(observation, "reason", ""),
        }
        transitions.move(job, State.LOST, by=transitions.PLATFORM, reason="silent", evidence=evidence)


def _give_up_for_lost(attempt: Attempt, why: str) -> bool:
    """A person wants it gone, it has been silent for long, and the executor never heard of it: free its slot."""
    attempt.refresh_from_db(fields=["last_message_at"])
    if timezone.now() - (attempt.last_message_at or attempt.created_at) < SILENCE:
        return False
    _bury(attempt, Dead(None, None, None, f"given up: {why}"))
    return True


def _take_in_what_is_left(executor: Executor, attempt: Attempt) -> None:
    """Messages that the trainer wrote down and could not deliver, before its end is judged without them."""
    spool = executor.undelivered(attempt.reference)
    if spool is None:
        return
    try:
        events = read_events(spool, after=attempt.acked_seq)
        for start in range(0, len(events), MAX_EVENTS):
            ingest(attempt.job_id, attempt.number, events[start : start + MAX_EVENTS])
    except SupersededError:
        logger.info("%s has been replaced by a newer attempt; what it left is not wanted.", attempt.name)
    except Exception:
        # Its end must be written down whatever it left, or it would hold its slot for ever.
        logger.exception("What %s left in %s could not be taken in", attempt.name, spool)


def _bury(attempt: Attempt, found: Dead) -> None:
    """Write down how the attempt ended, and end its job where the trainer had no last word."""
    with transaction.atomic():
        # The job's lock first, as whoever takes in messages does: two who wait for each other wait for ever.
        job = Job.objects.select_for_update().get(pk=attempt.job_id)
        buried = Attempt.objects.filter(pk=attempt.pk, ended_at=None).update(
            ended_at=found.ended_at or timezone.now(),
            exit_code=found.exit_code,
            signal=found.signal,
            evidence=found.evidence,
        )
        if not buried:
            return
        # A queued job waits for its next attempt: how the last one ended has been told already.
        if job.attempt_number == attempt.number and job.active:
            _end_by_evidence(job, found)
        if attempt.mlflow_run_id:
            transaction.on_commit(lambda: tasks.send_close_tracking_run(attempt.pk))


def _end_by_evidence(job: Job, found: Dead) -> None:
    if job.state == State.CANCELLING:
        transitions.end(job, EndReason.CANCELLED, by=transitions.PLATFORM, evidence=found.evidence)
        return
    reason = reason_from_exit(found.exit_code, found.signal, out_of_memory=found.oom_killed)
    transitions.end(job, reason, by=transitions.PLATFORM, message=_in_words(reason, found), evidence=found.evidence)


def _in_words(reason: EndReason, found: Dead) -> str:
    said = _("The trainer ended without a last message (%(evidence)s).") % {"evidence": found.evidence}
    advice = ADVICE[_FAILURE_OF[reason]] if reason in _FAILURE_OF else _ADVICE.get(reason, "")
    return f"{said} {advice}".strip()


_FAILURE_OF = {reason: failure for failure, reason in OF_FAILURE.items()}
_ADVICE = {
    EndReason.FINISHED: gettext_lazy(
        "Its exit code says that it finished; see the log for messages that did not arrive."
    ),
    EndReason.KILLED: gettext_lazy("Somebody or something killed it: look at the machine's system log, then retry."),
    EndReason.HOST_OUT_OF_MEMORY: gettext_lazy(
        "Lower the batch size or the number of workers, or use a larger machine."
    ),
    EndReason.VANISHED: gettext_lazy("The machine was probably restarted; retry the job."),
    EndReason.INTERRUPTED: gettext_lazy("It was told to stop from outside the platform; retry the job."),
}
