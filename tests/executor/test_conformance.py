"""What every executor owes the platform, asked of each of them."""

from pathlib import Path

import pytest

from apps.executor.base import Alive, Dead, Unknown
from apps.executor.errors import StillAliveError, UnknownReferenceError
from apps.executor.fake import FakeExecutor

# Writes ten bytes, then ends with the code it finds in a file beside its folder.
OBEDIENT = """
    import os, time
    order = os.environ["ORDER_FILE"]
    print("0123456789", end="")
    while not os.path.exists(order):
        time.sleep(0.01)
    raise SystemExit(int(open(order).read()))
"""


class FakeStage:
    """Plays the trainer's part for the fake."""

    def __init__(self) -> None:
        self.executor = FakeExecutor()
        self.environment: dict[str, str] = {}

    def settle(self, reference):
        if not self.executor.logs(reference).size:
            self.executor.write_log(reference, b"0123456789")

    def end(self, reference, code):
        self.executor.finish(reference, code)


class SubprocessStage:
    """Tells a real trainer when to end."""

    def __init__(self, executor, order: Path, eventually) -> None:
        self.executor = executor
        self.order = order
        self.eventually = eventually
        self.environment = {"ORDER_FILE": str(order)}

    def settle(self, reference):
        self.eventually(lambda: self.executor.logs(reference).size == 10)

    def end(self, reference, code):
        written = self.order.with_suffix(".new")
        written.write_text(str(code))
        written.rename(self.order)


@pytest.fixture(params=["fake", "subprocess"])
def stage(request, tmp_path, executor_of, eventually):
    if request.param == "fake":
        return FakeStage()
    return SubprocessStage(executor_of(OBEDIENT), tmp_path / "order", eventually)


@pytest.fixture
def launched(stage, make_spec):
    reference = stage.executor.launch(make_spec(environment=stage.environment)).reference
    stage.settle(reference)
    return reference


class TestEveryExecutor:
    def test_a_launched_attempt_is_alive_and_says_where_it_is(self, stage, make_spec):
        launched = stage.executor.launch(make_spec(environment=stage.environment))
        assert isinstance(stage.executor.observe(launched.reference), Alive)
        assert launched.node
        assert launched.log_location

    def test_launching_a_name_again_returns_the_same_attempt(self, stage, launched, make_spec):
        again = stage.executor.launch(make_spec(environment=stage.environment))
        assert again.reference == launched

    def test_a_dead_attempt_is_not_launched_again(self, stage, launched, make_spec, until_dead):
        stage.end(launched, 0)
        until_dead(stage.executor, launched)
        assert stage.executor.launch(make_spec(environment=stage.environment)).reference == launched
        assert isinstance(stage.executor.observe(launched), Dead)

    def test_two_names_are_two_attempts(self, stage, launched, make_spec):
        other = stage.executor.launch(make_spec("job-1-attempt-2", environment=stage.environment))
        assert other.reference != launched

    def test_an_attempt_is_found_by_its_name(self, stage, launched):
        assert stage.executor.find("job-1-attempt-1") == launched

    def test_a_name_never_launched_is_not_found(self, stage):
        assert stage.executor.find("job-1-attempt-1") is None
        assert stage.executor.find("../job-1-attempt-1") is None

    @pytest.mark.parametrize("code", [0, 3])
    def test_an_ended_attempt_is_dead_with_its_exit_code(self, stage, launched, until_dead, code):
        stage.end(launched, code)
        dead = until_dead(stage.executor, launched)
        assert (dead.exit_code, dead.signal) == (code, None)
        assert dead.ended_at is not None
        assert dead.ended_at.tzinfo is not None
        assert dead.evidence

    @pytest.mark.parametrize("force", [False, True])
    def test_a_stopped_attempt_ends(self, stage, launched, until_dead, force):
        stage.executor.stop(launched, force=force)
        assert until_dead(stage.executor, launched).signal in {9, 15}

    def test_stopping_something_dead_is_no_error(self, stage, launched, until_dead):
        stage.end(launched, 5)
        until_dead(stage.executor, launched)
        stage.executor.stop(launched)
        stage.executor.stop(launched, force=True)
        assert until_dead(stage.executor, launched).exit_code == 5

    def test_logs_are_read_from_either_end_and_in_pieces(self, stage, launched):
        whole = stage.executor.logs(launched)
        assert (whole.data, whole.next_offset, whole.size) == (b"0123456789", 10, 10)
        piece = stage.executor.logs(launched, offset=2, limit=3)
        assert (piece.data, piece.next_offset) == (b"234", 5)
        tail = stage.executor.logs(launched, offset=-4)
        assert (tail.data, tail.next_offset) == (b"6789", 10)
        assert stage.executor.logs(launched, offset=-40).data == b"0123456789"
        beyond = stage.executor.logs(launched, offset=99)
        assert (beyond.data, beyond.next_offset) == (b"", 10)

    def test_a_live_attempt_is_not_cleaned_up(self, stage, launched):
        with pytest.raises(StillAliveError):
            stage.executor.cleanup(launched)

    def test_a_cleaned_up_attempt_keeps_its_log_and_its_end(self, stage, launched, until_dead):
        stage.end(launched, 0)
        until_dead(stage.executor, launched)
        stage.executor.cleanup(launched)
        stage.executor.cleanup(launched)
        assert stage.executor.logs(launched).data == b"0123456789"
        assert isinstance(stage.executor.observe(launched), Dead)

    @pytest.mark.parametrize("reference", ["never-launched", "../../etc", "/etc", ""])
    def test_an_unknown_reference_is_refused_and_never_reads_as_dead(self, stage, reference):
        assert isinstance(stage.executor.observe(reference), Unknown)
        for call in (stage.executor.stop, stage.executor.logs, stage.executor.cleanup):
            with pytest.raises(UnknownReferenceError):
                call(reference)

    def test_there_is_room_for_something(self, stage):
        slots = stage.executor.slots()
        assert slots
        assert len({slot.name for slot in slots}) == len(slots)
