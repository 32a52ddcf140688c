"""The one function that changes a job's state."""

from typing import Any

from django.db import transaction
from django.utils import timezone

from apps.jobs.errors import IllegalMoveError
from apps.jobs.models import Job, StatusChange
from apps.jobs.states import ENDED, MOVES, STATE_OF, EndReason, State

PLATFORM = "platform"
TRAINER = "trainer"


def move(job: Job, new: State, *, by: str, reason: str = "", evidence: str = "", **fields: Any) -> bool:
    """Move `job` from the state it holds in memory to `new`, with `fields` set in the same statement.

    Compare-and-set: where the database no longer has the state that `job` was loaded with, nothing is written and
    False is returned; the caller loads the job again and decides anew. Otherwise a StatusChange is written in the
    same transaction.

    Raises:
        IllegalMoveError: the table of moves has no such move.
    """
    old = State(job.state)
    if new not in MOVES[old]:
        raise IllegalMoveError(f"{job} is {old.label.lower()} and cannot become {new.label.lower()}.")
    if new in ENDED:
        fields = {"ended_at": timezone.now(), "expected_end_at": None, "pending_reason": "", **fields}
    with transaction.atomic():
        if not Job.objects.filter(pk=job.pk, state=old).update(state=new, **fields):
            return False
        StatusChange.objects.create(
            job=job,
            attempt_number=fields.get("attempt_number", job.attempt_number),
            old=old,
            new=new,
            actor=by,
            reason=reason,
            evidence=evidence,
        )
    job.state = new
    for name, value in fields.items():
        setattr(job, name, value)
    return True


def end(job: Job, reason: EndReason, *, by: str, message: str = "", evidence: str = "") -> bool:
    """End `job` in the state that `reason` means. As `move`, False where somebody else was first."""
    return move(
        job,
        STATE_OF[reason],
        by=by,
        reason=reason,
        evidence=evidence or message,
        end_reason=reason,
        end_message=message,
    )
