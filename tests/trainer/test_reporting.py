"""Telling the platform, over a real HTTP server that behaves as each test says."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trainer.contract.exits import FailureReason
from trainer.contract.messages import Epoch, Failed, Finished, Phase, Progress, Started
from trainer.reporting import Reporter
from trainer.stopping import Stop

PATIENCE = 30.0
TOKEN = "hush"
Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]
Script = Callable[["Platform", dict[str, Any]], Answer]


class Platform:
    """A server that keeps every request, and what it took of them. `script` decides how it answers."""

    def __init__(self, script: Script, port: int = 0) -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.taken: dict[int, dict[str, Any]] = {}
        self.hang = threading.Event()
        platform = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                platform.paths.append(self.path)
                platform.headers.append(dict(self.headers))
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                platform.requests.append(body)
                status, answer, *more = platform.script(platform, body)
                payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in (more[0] if more else {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = int(self.server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/internal/training/1"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self.hang.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def kinds(self) -> list[str]:
        """What was taken, in order of numbers, without the heartbeats that come when they come."""
        return [event["type"] for _, event in sorted(self.taken.items()) if not heartbeat(event)]


def heartbeat(event: dict[str, Any]) -> bool:
    return event["type"] == "progress" and not event["data"]["note"]


def takes(platform: Platform, body: dict[str, Any]) -> Answer:
    """Takes everything, as the platform does: what is new is kept, the ack stops at the first gap."""
    for event in body["events"]:
        platform.taken.setdefault(event["seq"], event)
    acked = 0
    while acked + 1 in platform.taken:
        acked += 1
    return 200, {"acked": acked, "command": "continue"}


def failing(times: int, answer: Answer) -> Script:
    """Gives `answer` so many times, and takes everything from then on."""

    def script(platform: Platform, body: dict[str, Any]) -> Answer:
        return answer if len(platform.requests) <= times else takes(platform, body)

    return script


@pytest.fixture
def platform_of() -> Iterator[Callable[..., Platform]]:
    started: list[Platform] = []

    def make(script: Script = takes, port: int = 0) -> Platform:
        started.append(Platform(script, port))
        return started[-1]

    yield make
    for each in started:
        each.close()


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def reporter_of(tmp_path: Path, stop: Stop) -> Iterator[Callable[..., Reporter]]:
    """Makes reporters over one spool. Their threads are gone after the test."""
    made: list[Reporter] = []

    def make(url: str | None, token: str | None = TOKEN) -> Reporter:
        made.append(Reporter(url, token, 3, tmp_path / "messages.jsonl", stop))
        return made[-1]

    yield make
    for reporter in made:
        reporter.close(0)


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/internal/training/1"


def eventually(ask: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (answer := ask()):
        assert time.monotonic() < deadline, "It did not happen."
        time.sleep(0.02)
    return answer


def say_epochs(reporter: Reporter, count: int, first: int = 1) -> None:
    for number in range(first, first + count):
        reporter.say(Epoch(epoch=number, epochs=100, metrics={"fitness": number / 100}))


FINISHED = Finished(epochs=3, seconds=1.0, metrics={"fitness": 0.5})


def spooled(tmp_path: Path) -> list[str]:
    events = map(json.loads, (tmp_path / "messages.jsonl").read_text().splitlines())
    return [event["type"] for event in events if not heartbeat(event)]


def test_messages_arrive_in_order_once_each_with_attempt_and_numbers_without_a_gap(
    platform_of: Any, reporter_of: Any
) -> None:
    platform = platform_of()
    reporter = reporter_of(platform.url)
    reporter.say(Started(host="here"))
    say_epochs(reporter, 40)
    reporter.say(FINISHED)
    assert reporter.close(PATIENCE) is True
    assert platform.kinds() == ["started", *["epoch"] * 40, "finished"]
    sent = [event["seq"] for body in platform.requests for event in body["events"]]
    assert sent == list(range(1, len(sent) + 1))
    assert {body["attempt"] for body in platform.requests} == {3}
    assert set(platform.paths) == {"/internal/training/1"}
    assert all(event["at"].endswith("+00:00") for event in platform.taken.values())


def test_the_token_travels_in_the_header_alone(platform_of: Any, reporter_of: Any, tmp_path: Path) -> None:
    platform = platform_of()
    reporter = reporter_of(platform.url, "hush-hush")
    reporter.say(FINISHED)
    assert reporter.close(PATIENCE)
    assert {headers["Authorization"] for headers in platform.headers} == {"Bearer hush-hush"}
    everything_else = [{k: v for k, v in headers.items() if k != "Authorization"} for headers in platform.headers]
    assert "hush" not in str([platform.paths, platform.requests, everything_else])
    assert "hush" not in (tmp_path / "messages.jsonl").read_text()


@pytest.mark.parametrize(
    "answer",
    [(500, {}), (503, {}, {"Retry-After": "1"}), (502, b"<html>"), (401, {}), (403, {}), (301, {}), (429, {})],
    ids=lambda answer: str(answer[0]),
)
def test_whatever_a_platform_in_trouble_answers_everything_is_delivered_once_it_has_recovered(
    answer: Answer, platform_of: Any, reporter_of: Any, stop: Stop
) -> None:
    platform = platform_of(failing(2, answer))
    reporter = reporter_of(platform.url)
    say_epochs(reporter, 3)
    reporter.say(FINISHED)
    assert reporter.close(PATIENCE) is True
    assert platform.kinds() == ["epoch", "epoch", "epoch", "finished"]
    assert not stop.asked


@pytest.mark.parametrize(
    "body",
    [b"<html>ok</html>", b"", b"[]", b'{"acked": "all"}', b'{"acked": 1, "command": "dance"}'],
    ids=["html", "empty", "list", "words", "unknown command"],
)
def test_an_answer_that_is_none_acknowledges_nothing(body: bytes, platform_of: Any, reporter_of: Any) -> None:
    """A proxy with a page of its own must not have messages forgotten."""
    platform = platform_of(failing(1, (200, body)))
    reporter = reporter_of(platform.url)
    reporter.say(FINISHED)
    assert reporter.close(PATIENCE) is True
    assert platform.kinds() == ["finished"]


def test_a_connection_that_breaks_in_the_middle_of_an_answer_loses_nothing(platform_of: Any, reporter_of: Any) -> None:
    """What was taken and not acknowledged is said again, as it was."""

    def script(platform: Platform, body: dict[str, Any]) -> Answer:
        takes(platform, body)
        if len(platform.requests) == 1:
            raise ConnectionAbortedError
        return takes(platform, body)

    platform = platform_of(script)
    platform.server.handle_error = lambda *_: None
    reporter = reporter_of(platform.url)
    reporter.say(FINISHED)
    assert reporter.close(PATIENCE) is True
    first, second = platform.requests[0]["events"], platform.requests[1]["events"]
    assert second[: len(first)] == first
    assert platform.kinds() == ["finished"]


def test_messages_said_while_nobody_listens_are_delivered_to_whoever_comes_later(
    nobody: str, platform_of: Any, reporter_of: Any, stop: Stop
) -> None:
    reporter = reporter_of(nobody)
    say_epochs(reporter, 3)
    time.sleep(0.7)  # it has tried and been refused
    platform = platform_of(port=int(nobody.split(":")[2].split("/")[0]))
    reporter.say(FINISHED)
    assert reporter.close(PATIENCE) is True
    assert platform.kinds() == ["epoch", "epoch", "epoch", "finished"]
    assert not stop.asked


def test_where_nobody_listens_closing_says_so_and_the_spool_keeps_everything(
    nobody: str, reporter_of: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reporter = reporter_of(nobody)
    say_epochs(reporter, 2)
    reporter.say(FINISHED)
    assert reporter.close(1) is False
    assert spooled(tmp_path) == ["epoch", "epoch", "finished"]
    assert "were not delivered; they stay in the spool file" in caplog.text
    assert caplog.text.count("training goes on") == 1


def test_a_new_reporter_on_the_same_spool_delivers_what_is_left_and_goes_on_counting(
    nobody: str, platform_of: Any, reporter_of: Any
) -> None:
    first = reporter_of(nobody)
    say_epochs(first, 2)
    assert first.close(0) is False
    platform = platform_of()
    second = reporter_of(platform.url)
    second.say(FINISHED)
    assert second.close(PATIENCE) is True
    assert platform.kinds() == ["epoch", "epoch", "finished"]
    assert sorted(platform.taken) == list(range(1, len(platform.taken) + 1))


def test_a_reporter_after_one_that_delivered_everything_sends_nothing_twice(platform_of: Any, reporter_of: Any) -> None:
    platform = platform_of()
    first = reporter_of(platform.url)
    first.say(Started())
    assert first.close(PATIENCE)
    before = len(platform.taken)
    second = reporter_of(platform.url)
    second.say(FINISHED)
    assert second.close(PATIENCE) is True
    sent = [event["seq"] for body in platform.requests for event in body["events"]]
    assert sent == list(range(1, len(sent) + 1))
    assert len(platform.taken) > before


def test_without_an_address_everything_stays_in_the_spool(reporter_of: Any, tmp_path: Path, stop: Stop) -> None:
    reporter = reporter_of(None, None)
    reporter.say(FINISHED)
    assert reporter.close(PATIENCE) is False
    assert spooled(tmp_path) == ["finished"]
    assert not stop.asked


# --- being told ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "by"), [(409, "a newer attempt"), (404, "the platform, which no longer")])
def test_where_nobody_will_ever_take_them_the_training_stops_and_messages_are_not_waited_for(
    status: int, by: str, platform_of: Any, reporter_of: Any, stop: Stop
) -> None:
    platform = platform_of(lambda platform, body: (status, {"title": "no", "status": status}))
    reporter = reporter_of(platform.url)
    say_epochs(reporter, 2)
    eventually(lambda: stop.asked)
    assert stop.superseded
    assert stop.by.startswith(by)
    reporter.close(PATIENCE)


@pytest.mark.parametrize("status", [404, 409])
def test_a_proxy_that_says_so_while_the_platform_restarts_stops_nothing(
    status: int, platform_of: Any, reporter_of: Any, stop: Stop
) -> None:
    answers = iter([(status, {"message": "no such application"}), (status, {})])
    platform = platform_of(lambda platform, body: next(answers, None) or takes(platform, body))
    reporter = reporter_of(platform.url)
    say_epochs(reporter, 2)
    reporter.say(FINISHED)
    assert reporter.close(PATIENCE) is True
    assert not stop.asked


def test_the_answer_can_tell_the_training_to_stop_and_the_rest_is_still_delivered(
    platform_of: Any, reporter_of: Any, stop: Stop
) -> None:
    platform = platform_of(lambda platform, body: (200, {**takes(platform, body)[1], "command": "stop"}))
    reporter = reporter_of(platform.url)
    reporter.say(Started())
    eventually(lambda: stop.asked)
    assert (stop.by, stop.superseded) == ("the platform", False)
    reporter.say(FINISHED)
    assert reporter.close(PATIENCE) is True
    assert platform.kinds() == ["started", "finished"]


def test_a_command_to_stop_is_heard_in_answer_to_a_mere_heartbeat(
    platform_of: Any, reporter_of: Any, stop: Stop
) -> None:
    platform_stops = platform_of(lambda platform, body: (200, {**takes(platform, body)[1], "command": "stop"}))
    reporter = reporter_of(platform_stops.url)
    reporter.progress(Progress(phase=Phase.TRAINING, epoch=1, epochs=2))
    eventually(lambda: stop.asked)
    assert platform_stops.kinds() == []


# --- what is not taken --------------------------------------------------------------------------------------------


def test_a_batch_that_is_too_large_is_sent_in_halves(nobody: str, platform_of: Any, reporter_of: Any) -> None:
    def script(platform: Platform, body: dict[str, Any]) -> Answer:
        return (413, {}) if len(body["events"]) > 3 else takes(platform, body)

    earlier = reporter_of(nobody)
    say_epochs(earlier, 12)
    earlier.close(0)
    platform = platform_of(script)
    reporter = reporter_of(platform.url)
    reporter.say(FINISHED)
    assert reporter.close(PATIENCE) is True
    assert platform.kinds() == [*["epoch"] * 12, "finished"]
    sizes = [len(body["events"]) for body in platform.requests]
    assert sizes[:3] == [sizes[0], sizes[0] // 2, sizes[0] // 4]


@pytest.mark.parametrize("status", [413, 422])
def test_one_message_that_is_never_taken_is_replaced_by_a_note_and_does_not_hold_up_the_others(
    status: int, nobody: str, platform_of: Any, reporter_of: Any, stop: Stop
) -> None:
    def script(platform: Platform, body: dict[str, Any]) -> Answer:
        bad = [e for e in body["events"] if e["type"] == "epoch" and e["data"]["epoch"] == 5]
        return (status, {"detail": "epoch 5 is bad"}) if bad else takes(platform, body)

    earlier = reporter_of(nobody)
    say_epochs(earlier, 9)
    earlier.close(0)
    platform = platform_of(script)
    reporter = reporter_of(platform.url)
    reporter.say(FINISHED)
    assert reporter.close(PATIENCE) is True
    assert platform.kinds() == [*["epoch"] * 4, "progress", *["epoch"] * 4, "finished"]
    (note,) = [e for e in platform.taken.values() if e["type"] == "progress" and e["data"]["note"]]
    assert "epoch 5 is bad" in note["data"]["note"]
    assert "(epoch) was refused" in note["data"]["note"]
    assert not stop.asked


def test_where_not_even_the_note_is_taken_the_messages_stay(platform_of: Any, reporter_of: Any, tmp_path: Path) -> None:
    platform = platform_of(lambda platform, body: (422, {"detail": "no"}))
    reporter = reporter_of(platform.url)
    reporter.say(FINISHED)
    assert reporter.close(2) is False
    assert spooled(tmp_path) == ["finished"]
    assert len(platform.requests) < 20  # it does not ask as fast as it can


def test_a_platform_that_has_forgotten_gets_it_all_again(platform_of: Any, reporter_of: Any) -> None:
    """Its database was put back to a copy of some minutes ago; the spool still holds what came after."""
    platform = platform_of()
    reporter = reporter_of(platform.url)
    say_epochs(reporter, 6)
    eventually(lambda: platform.kinds() == ["epoch"] * 6)
    for seq in [seq for seq in platform.taken if seq > 3]:
        del platform.taken[seq]
    reporter.say(FINISHED)
    assert reporter.close(PATIENCE) is True
    assert platform.kinds() == [*["epoch"] * 6, "finished"]


def test_numbers_that_are_none_arrive_as_null(platform_of: Any, reporter_of: Any) -> None:
    platform = platform_of()
    reporter = reporter_of(platform.url)
    reporter.say(Progress(phase=Phase.TRAINING, note="x", losses={"box": None}))
    reporter.say(FINISHED)
    assert reporter.close(PATIENCE) is True
    (said,) = [e for e in platform.taken.values() if e["data"].get("note") == "x"]
    assert said["data"]["losses"] == {"box": None}


# --- never in the way ---------------------------------------------------------------------------------------------


def test_a_server_that_hangs_does_not_hold_up_whoever_speaks(
    platform_of: Any, reporter_of: Any, tmp_path: Path
) -> None:
    """The training has said a thousand things and ended before the server answers for the first time."""

    def script(platform: Platform, body: dict[str, Any]) -> Answer:
        platform.hang.wait(PATIENCE)
        return takes(platform, body)

    platform = platform_of(script)
    reporter = reporter_of(platform.url)
    eventually(lambda: platform.requests)
    for number in range(1, 1001):
        reporter.progress(Progress(phase=Phase.TRAINING, epoch=number))
        reporter.say(Epoch(epoch=number, epochs=1000, metrics={}))
    assert platform.taken == {}
    assert len(spooled(tmp_path)) == 1000
    platform.hang.set()
    reporter.say(FINISHED)
    assert reporter.close(PATIENCE) is True
    assert platform.kinds() == [*["epoch"] * 1000, "finished"]
    assert max(len(body["events"]) for body in platform.requests) <= 500


@pytest.mark.parametrize("url", ["http://[::1/x", "http://host:port/x", "http://127.0.0.1:99999/x", "http://\udcff/x"])
def test_an_address_that_is_none_ends_neither_the_training_nor_the_reporting(
    url: str, reporter_of: Any, tmp_path: Path
) -> None:
    reporter = reporter_of(url)
    reporter.say(Started())
    time.sleep(0.7)
    reporter.progress(Progress(phase=Phase.TRAINING, epoch=1))
    eventually(lambda: '"training"' in (tmp_path / "messages.jsonl").read_text())
    assert reporter.close(0) is False


def test_a_disk_that_is_full_for_a_while_does_not_silence_the_reporter(
    platform_of: Any, reporter_of: Any, tmp_path: Path
) -> None:
    """A folder where the note of what is acknowledged belongs stands for any write that fails."""
    platform = platform_of()
    reporter = reporter_of(platform.url)
    eventually(lambda: (tmp_path / "messages.acked").exists())
    blocker = tmp_path / "messages.tmp"
    (blocker / "full").mkdir(parents=True)
    reporter.say(Started())
    eventually(lambda: platform.kinds() == ["started"])
    time.sleep(0.3)
    (blocker / "full").rmdir()
    blocker.rmdir()
    reporter.say(FINISHED)
    assert reporter.close(PATIENCE) is True
    assert platform.kinds() == ["started", "finished"]


# --- heartbeats ---------------------------------------------------------------------------------------------------


def test_a_new_phase_is_told_and_only_the_newest_of_many_heartbeats(platform_of: Any, reporter_of: Any) -> None:
    platform = platform_of()
    reporter = reporter_of(platform.url)
    eventually(lambda: platform.taken)
    for number in range(500):
        reporter.progress(Progress(phase=Phase.TRAINING, epoch=1, epochs=2, fraction=number / 1000))
    phases = lambda: [event["data"]["phase"] for _, event in sorted(platform.taken.items())]  # noqa: E731
    eventually(lambda: "training" in phases())
    reporter.progress(Progress(phase=Phase.UPLOADING))
    eventually(lambda: phases()[-1] == "uploading")
    assert phases()[0] == "preparing"
    assert phases().count("training") < 5


def test_the_mlflow_run_is_mentioned_with_the_heartbeats_from_then_on(platform_of: Any, reporter_of: Any) -> None:
    platform = platform_of()
    reporter = reporter_of(platform.url)
    reporter.mention_run("12", "abcdef")
    eventually(lambda: any(e["data"].get("mlflow_run_id") == "abcdef" for e in platform.taken.values()))
    reporter.progress(Progress(phase=Phase.TRAINING))
    eventually(lambda: any(e["data"]["phase"] == "training" for e in platform.taken.values()))
    newest = platform.taken[max(platform.taken)]
    assert (newest["data"]["mlflow_experiment_id"], newest["data"]["mlflow_run_id"]) == ("12", "abcdef")


def test_nothing_is_said_after_the_last_word(platform_of: Any, reporter_of: Any) -> None:
    platform = platform_of()
    reporter = reporter_of(platform.url)
    reporter.say(Failed(reason=FailureReason.CRASHED, message="boom"))
    reporter.progress(Progress(phase=Phase.UPLOADING, fraction=1))
    assert reporter.close(PATIENCE) is True
    last = platform.taken[max(platform.taken)]
    assert last["type"] in ("failed", "progress")
    count = len(platform.taken)
    time.sleep(0.6)
    assert len(platform.taken) == count
