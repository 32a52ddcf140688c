"""What a test can make the fake executor do."""

import pytest

from apps.executor.base import Alive, Dead, Unknown
from apps.executor.errors import LaunchError
from apps.executor.fake import FakeExecutor


def test_launches_are_counted_by_trainer(make_spec):
    executor = FakeExecutor()
    executor.launch(make_spec())
    executor.launch(make_spec())
    assert executor.launches == [make_spec()]


def test_a_scripted_launch_error_starts_nothing_and_comes_once(make_spec):
    executor = FakeExecutor()
    executor.fail_next_launch("the image is missing", retryable=False)
    with pytest.raises(LaunchError, match="image") as caught:
        executor.launch(make_spec())
    assert not caught.value.retryable
    assert executor.find("job-1-attempt-1") is None
    executor.launch(make_spec())
    assert len(executor.launches) == 1


def test_a_lost_reply_leaves_a_trainer_to_adopt(make_spec):
    executor = FakeExecutor()
    executor.lose_next_reply()
    with pytest.raises(ConnectionError):
        executor.launch(make_spec())
    reference = executor.find("job-1-attempt-1")
    assert reference is not None
    assert isinstance(executor.observe(reference), Alive)
    assert executor.launch(make_spec()).reference == reference
    assert len(executor.launches) == 1


def test_a_disobedient_attempt_lives_until_it_is_let_go(make_spec):
    executor = FakeExecutor(obeys_stop=False)
    reference = executor.launch(make_spec()).reference
    executor.stop(reference)
    executor.stop(reference, force=True)
    assert executor.attempts[reference].stops == [False, True]
    assert isinstance(executor.observe(reference), Alive)
    executor.finish(reference, signal=9)
    dead = executor.observe(reference)
    assert isinstance(dead, Dead)
    assert (dead.exit_code, dead.signal) == (None, 9)


def test_an_observation_can_be_scripted(make_spec):
    executor = FakeExecutor()
    reference = executor.launch(make_spec()).reference
    executor.script(reference, Unknown("the node does not answer"))
    assert executor.observe(reference) == Unknown("the node does not answer")
