"""Messages on disk: numbered, kept until acknowledged, and none lost to a crash."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from trainer.spool import Spool

REPOSITORY = Path(__file__).parents[2]
EVERYTHING = {"limit": 1000, "max_bytes": 1 << 20}
AT = "2026-01-02T03:04:05+00:00"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "work" / "messages.jsonl"


def numbers(spool: Spool, **bounds: int) -> list[int]:
    return [event["seq"] for event in spool.pending(**{**EVERYTHING, **bounds})]


def filled(path: Path, count: int, **data: Any) -> Spool:
    spool = Spool(path)
    for number in range(1, count + 1):
        assert spool.append("progress", AT, {"note": f"number {number}", **data}) == number
    return spool


def test_messages_come_back_in_order_as_they_were_said(path: Path) -> None:
    spool = Spool(path)
    assert spool.empty
    spool.append("started", AT, {"host": "오늘", "pid": 3})
    spool.append("progress", AT, {})
    assert spool.pending(**EVERYTHING) == [
        {"seq": 1, "type": "started", "at": AT, "data": {"host": "오늘", "pid": 3}},
        {"seq": 2, "type": "progress", "at": AT, "data": {}},
    ]
    assert not spool.empty


def test_an_acknowledged_message_is_not_sent_again(path: Path) -> None:
    spool = filled(path, 5)
    spool.ack(3)
    assert numbers(spool) == [4, 5]
    spool.ack(2)
    assert numbers(spool) == [4, 5]
    spool.ack(5)
    assert numbers(spool) == []
    assert spool.empty


def test_a_batch_holds_so_many_messages_at_most(path: Path) -> None:
    spool = filled(path, 5)
    assert numbers(spool, limit=2) == [1, 2]
    spool.ack(2)
    assert numbers(spool, limit=2) == [3, 4]
    assert numbers(spool, limit=1) == [3]


def test_a_batch_holds_so_many_bytes_at_most_but_always_one_message(path: Path) -> None:
    spool = filled(path, 3, text="x" * 1000)
    assert numbers(spool, max_bytes=2500) == [1, 2]
    assert numbers(spool, max_bytes=10) == [1]


def test_numbering_goes_on_where_it_ended(path: Path) -> None:
    filled(path, 4).ack(2)
    again = Spool(path)
    assert numbers(again) == [3, 4]
    assert again.append("progress", AT, {}) == 5
    assert numbers(Spool(path)) == [3, 4, 5]


def test_numbering_goes_on_where_everything_was_acknowledged(path: Path) -> None:
    filled(path, 4).ack(4)
    again = Spool(path)
    assert again.empty
    assert again.append("progress", AT, {}) == 5
    assert numbers(again) == [5]


@pytest.mark.parametrize("torn", [b'{"seq": 3, "type": "pro', b"{", b'{"seq": 3, "x": "\xec\x98', b"\0\0\0\0"])
def test_half_a_line_left_by_a_crash_was_never_said(path: Path, torn: bytes) -> None:
    filled(path, 2)
    with path.open("ab") as file:
        file.write(torn)
    spool = Spool(path)
    assert numbers(spool) == [1, 2]
    assert spool.append("progress", AT, {}) == 3
    assert numbers(spool) == [1, 2, 3]
    assert [json.loads(line)["seq"] for line in path.read_bytes().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("note", ["", "garbage", "\0\0"])
def test_a_note_of_what_is_acknowledged_that_a_crash_left_empty_costs_a_repetition_and_no_training(
    path: Path, note: str
) -> None:
    """The platform knows a repeated message when it sees one."""
    filled(path, 3).ack(2)
    path.with_suffix(".acked").write_text(note)
    assert numbers(Spool(path)) == [1, 2, 3]


def test_a_number_that_was_acknowledged_is_never_given_out_again(path: Path) -> None:
    """It would count as taken already, and what it says would be lost."""
    filled(path, 5).ack(5)
    path.unlink()
    spool = Spool(path)
    assert spool.append("finished", AT, {}) == 6
    assert numbers(spool) == [6]


def test_a_platform_that_has_heard_more_than_was_said_here_loses_nothing_new(path: Path) -> None:
    spool = filled(path, 2)
    spool.ack(9)
    assert spool.empty
    assert spool.append("finished", AT, {}) == 10
    assert numbers(spool) == [10]


def test_what_was_said_survives_the_death_of_the_process(path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from trainer.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1]))\n"
        f"for n in range(200): spool.append('progress', '{AT}', {{'note': 'x' * n}})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=REPOSITORY, check=False, timeout=60)
    assert numbers(Spool(path)) == list(range(1, 201))


def test_messages_said_from_several_threads_while_one_sends_are_all_there_once(path: Path) -> None:
    spool = Spool(path)
    sent: list[int] = []
    speakers = [
        threading.Thread(target=lambda: [spool.append("progress", AT, {"note": "y" * 200}) for _ in range(200)])
        for _ in range(4)
    ]
    for speaker in speakers:
        speaker.start()
    while any(speaker.is_alive() for speaker in speakers) or not spool.empty:
        batch = numbers(spool, limit=7)
        sent += batch
        spool.ack(batch[-1] if batch else 0)
    assert sent == list(range(1, 801))


def test_what_is_no_number_travels_as_null(path: Path) -> None:
    """JSON has no word for it: httpx refuses to send it, and the platform to take it."""
    spool = Spool(path)
    spool.append("epoch", AT, {"metrics": {"a": float("nan"), "b": float("inf"), "c": 1.5}, "list": [float("-inf")]})
    (event,) = spool.pending(**EVERYTHING)
    assert event["data"] == {"metrics": {"a": None, "b": None, "c": 1.5}, "list": [None]}
    assert "NaN" not in path.read_text()


def test_everything_after_a_number_can_be_sent_again(path: Path) -> None:
    spool = filled(path, 5)
    spool.ack(5)
    spool.rewind(2)
    assert numbers(spool) == [3, 4, 5]
    assert numbers(Spool(path)) == [3, 4, 5]
    assert spool.append("progress", AT, {}) == 6
