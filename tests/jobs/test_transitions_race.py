"""Two who move one job at the same moment: one wins, and the other knows that it did not."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import AbstractUser

from apps.jobs import services, transitions
from apps.jobs.errors import IllegalMoveError
from apps.jobs.models import Job, StatusChange
from apps.jobs.states import EndReason, State

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("shared_database")]

MakeJob = Callable[..., Job]
AtOnce = Callable[..., list[Any]]


@pytest.mark.parametrize("_again", range(5))
def test_of_two_movers_exactly_one_wins(_again: int, make_job: MakeJob, at_once: AtOnce) -> None:
    job = make_job()
    one, other = Job.objects.get(pk=job.pk), Job.objects.get(pk=job.pk)
    results = at_once(
        lambda: transitions.move(one, State.LAUNCHING, by="one"),
        lambda: transitions.end(other, EndReason.CANCELLED, by="other"),
    )
    assert sorted(results) == [False, True]
    job.refresh_from_db()
    winner, state = [("one", State.LAUNCHING), ("other", State.CANCELLED)][results.index(True)]
    assert job.state == state
    assert list(StatusChange.objects.filter(job=job).values_list("actor", flat=True)) == [winner, "trainer"]
    assert {one.state, other.state} == {state, State.QUEUED}


def test_of_many_who_do_the_same_one_does_it(make_job: MakeJob, at_once: AtOnce) -> None:
    job = make_job()
    copies = [Job.objects.get(pk=job.pk) for _ in range(8)]
    results = at_once(*[lambda copy=copy: transitions.move(copy, State.LAUNCHING, by="me") for copy in copies])
    assert sorted(results) == [False] * 7 + [True]
    assert StatusChange.objects.filter(job=job, new=State.LAUNCHING).count() == 1


def test_a_job_that_is_launched_while_it_is_cancelled_ends_up_cancelled_or_being_cancelled(
    make_job: MakeJob, at_once: AtOnce, trainer_user: AbstractUser
) -> None:
    """Whoever cancels judges by the new state where somebody else was first."""
    for _ in range(5):
        job = make_job()
        mine, theirs = Job.objects.get(pk=job.pk), Job.objects.get(pk=job.pk)
        moved, cancelled = at_once(
            lambda theirs=theirs: transitions.move(theirs, State.LAUNCHING, by="platform"),
            lambda mine=mine: services.cancel(mine, by=trainer_user),
        )
        job.refresh_from_db()
        assert cancelled.state == job.state == (State.CANCELLING if moved else State.CANCELLED)


def test_a_job_retried_twice_at_once_is_queued_once(
    make_job: MakeJob, at_once: AtOnce, trainer_user: AbstractUser
) -> None:
    job = make_job()
    services.cancel(job, by=trainer_user)
    copies = [Job.objects.get(pk=job.pk) for _ in range(2)]
    results = at_once(*[lambda copy=copy: services.retry(copy, by=trainer_user) for copy in copies])
    assert sum(isinstance(result, IllegalMoveError) for result in results) == 1
    assert sum(isinstance(result, Job) for result in results) == 1
    assert StatusChange.objects.filter(job=job, reason="retry").count() == 1
