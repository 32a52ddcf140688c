"""The table of moves, walked over from end to end, and what each end means."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
from django.db import IntegrityError

from apps.jobs import transitions
from apps.jobs.errors import IllegalMoveError
from apps.jobs.models import Job, StatusChange
from apps.jobs.states import ACTIVE, ENDED, MOVES, OF_FAILURE, STATE_OF, EndReason, State, reason_from_exit
from trainer.contract.exits import ADVICE, EXIT_CODE, ExitCode, FailureReason

MakeJob = Callable[..., Job]
PAIRS = [(old, new) for old in State for new in State]
ALLOWED = [(old, new) for old, new in PAIRS if new in MOVES[old]]
FORBIDDEN = [(old, new) for old, new in PAIRS if new not in MOVES[old]]


def in_state(job: Job, state: State) -> Job:
    Job.objects.filter(pk=job.pk).update(state=state)
    job.refresh_from_db()
    return job


@pytest.mark.parametrize(("old", "new"), ALLOWED, ids="-".join)
def test_an_allowed_move_changes_the_state_and_writes_one_row_of_history(
    old: State, new: State, make_job: MakeJob
) -> None:
    job = in_state(make_job(), old)
    before = StatusChange.objects.count()
    assert transitions.move(job, new, by="me", reason="why", evidence="what was seen") is True
    assert job.state == new
    job.refresh_from_db()
    assert job.state == new
    assert (job.ended_at is not None) == (new in ENDED)
    change = StatusChange.objects.first()
    assert change is not None
    assert StatusChange.objects.count() == before + 1
    assert (change.job_id, change.old, change.new, change.actor) == (job.pk, old, new, "me")
    assert (change.reason, change.evidence) == ("why", "what was seen")


@pytest.mark.parametrize(("old", "new"), FORBIDDEN, ids="-".join)
def test_a_move_that_the_table_lacks_is_refused_and_writes_nothing(
    old: State, new: State, make_job: MakeJob, dump: Any
) -> None:
    job = in_state(make_job(), old)
    before = dump()
    with pytest.raises(IllegalMoveError, match=f"is {old.label.lower()} and cannot become {new.label.lower()}"):
        transitions.move(job, new, by="me", pending_reason="x")
    assert job.state == old
    assert dump() == before


def test_every_state_has_its_moves_and_every_one_is_ended_active_or_queued() -> None:
    assert MOVES.keys() == set(State)
    assert set(State) == ENDED | ACTIVE | {State.QUEUED}
    assert not ENDED & ACTIVE


def test_an_end_is_left_by_a_retry_alone_and_success_not_at_all() -> None:
    assert {state: MOVES[state] for state in ENDED} == {
        State.SUCCEEDED: frozenset(),
        State.FAILED: {State.QUEUED},
        State.CANCELLED: {State.QUEUED},
    }


def test_whatever_its_state_a_job_can_come_to_an_end() -> None:
    assert all(MOVES[state] & ENDED for state in State if state not in ENDED)


def test_a_cancelled_job_does_not_train_again_behind_the_person_who_cancelled_it() -> None:
    assert MOVES[State.CANCELLING] <= ENDED


def test_whoever_judges_by_an_old_state_writes_nothing(make_job: MakeJob, dump: Any) -> None:
    job = make_job()
    stale = Job.objects.get(pk=job.pk)
    assert transitions.move(job, State.LAUNCHING, by="first")
    before = dump()
    assert transitions.move(stale, State.CANCELLED, by="second", end_message="x") is False
    assert transitions.end(stale, EndReason.CANCELLED, by="second") is False
    assert dump() == before
    assert (stale.state, stale.end_message) == (State.QUEUED, "")


def test_a_move_whose_history_cannot_be_written_does_not_happen(make_job: MakeJob, dump: Any) -> None:
    job = make_job()
    before = dump()
    nobody: Any = None
    with pytest.raises(IntegrityError):
        transitions.move(job, State.LAUNCHING, by=nobody)
    assert dump() == before
    assert job.state == State.QUEUED


def test_fields_are_set_with_the_state_in_the_database_and_in_memory(make_job: MakeJob) -> None:
    job = make_job()
    transitions.move(job, State.LAUNCHING, by="me", attempt_number=4, pending_reason="")
    assert job.attempt_number == 4
    job.refresh_from_db()
    assert job.attempt_number == 4
    assert StatusChange.objects.latest("id").attempt_number == 4


def test_an_ended_job_neither_waits_nor_expects_an_end(make_job: MakeJob) -> None:
    job = make_job()
    Job.objects.filter(pk=job.pk).update(pending_reason="Number 3", expected_end_at="2030-01-01T00:00Z")
    job.refresh_from_db()
    transitions.end(job, EndReason.CANCELLED, by="me", message="No longer wanted.")
    job.refresh_from_db()
    assert (job.pending_reason, job.expected_end_at) == ("", None)
    assert (job.end_reason, job.end_message) == ("cancelled", "No longer wanted.")
    assert StatusChange.objects.latest("id").evidence == "No longer wanted."


def test_the_database_itself_knows_the_states_and_that_only_an_end_has_a_reason(make_job: MakeJob) -> None:
    job = make_job()
    with pytest.raises(IntegrityError):
        Job.objects.filter(pk=job.pk).update(state="paused")


def test_the_database_itself_refuses_a_reason_for_what_has_not_ended(make_job: MakeJob) -> None:
    job = make_job()
    with pytest.raises(IntegrityError):
        Job.objects.filter(pk=job.pk).update(end_reason=EndReason.CRASHED)


# --- why a job ended --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", EndReason)
def test_every_reason_means_an_end(reason: EndReason) -> None:
    expected = {EndReason.FINISHED: State.SUCCEEDED, EndReason.CANCELLED: State.CANCELLED}
    assert STATE_OF[reason] == expected.get(reason, State.FAILED)
    assert STATE_OF[reason] in ENDED


@pytest.mark.parametrize("reason", EndReason)
def test_every_reason_ends_a_running_job(reason: EndReason, make_job: MakeJob) -> None:
    job = in_state(make_job(), State.RUNNING)
    assert transitions.end(job, reason, by="me")
    job.refresh_from_db()
    assert (job.state, job.end_reason) == (STATE_OF[reason], reason)


@pytest.mark.parametrize("reason", FailureReason)
def test_every_failure_of_a_trainer_has_exit_code_advice_and_meaning(reason: FailureReason) -> None:
    assert EXIT_CODE[reason] in ExitCode
    assert ADVICE[reason]
    assert OF_FAILURE[reason] == EndReason(reason.value)
    assert STATE_OF[OF_FAILURE[reason]] == State.FAILED


@pytest.mark.parametrize("code", ExitCode)
def test_every_exit_code_means_its_own_reason(code: ExitCode) -> None:
    special = {
        ExitCode.SUCCEEDED: EndReason.FINISHED,
        ExitCode.INTERRUPTED: EndReason.INTERRUPTED,
        ExitCode.SUPERSEDED: EndReason.INTERRUPTED,
    }
    expected = special[code] if code in special else EndReason(code.name.lower())
    assert reason_from_exit(int(code), None, out_of_memory=False) == expected


@pytest.mark.parametrize("code", [1, 2, 64, 126, 127, 137, 255, -1])
def test_an_exit_code_that_is_not_documented_is_a_crash(code: int) -> None:
    assert reason_from_exit(code, None, out_of_memory=False) == EndReason.CRASHED


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_signal_is_a_signal(number: int) -> None:
    assert reason_from_exit(None, number, out_of_memory=False) == EndReason.KILLED


def test_no_trace_at_all_is_told_as_such() -> None:
    assert reason_from_exit(None, None, out_of_memory=False) == EndReason.VANISHED


@pytest.mark.parametrize(("code", "number"), [(None, signal.SIGKILL), (137, None), (None, None)])
def test_want_of_memory_counts_before_how_it_showed(code: int | None, number: int | None) -> None:
    assert reason_from_exit(code, number, out_of_memory=True) == EndReason.HOST_OUT_OF_MEMORY
