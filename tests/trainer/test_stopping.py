"""Being told to stop: once, by whoever is first, between two batches; twice means now."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.contract.exits import ExitCode
from trainer.stopping import Stop, StopTrainingError

REPOSITORY = Path(__file__).parents[2]
TRAINING = """
import logging, sys, time
from trainer.stopping import Stop, StopTrainingError
logging.basicConfig(stream=sys.stderr)
stop = Stop()
stop.listen_to_signals()
print("ready", flush=True)
batches = 0
try:
    while True:
        time.sleep(0.01)
        {work}
        stop.check()
except StopTrainingError:
    print("stopped by", stop.by, flush=True)
"""


@pytest.fixture
def training() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are not left behind."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(started: list[subprocess.Popen[str]], work: str = "pass") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", TRAINING.replace("{work}", work)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_in_order_and_is_named(number: signal.Signals, training: list[subprocess.Popen[str]]) -> None:
    process = start(training)
    process.send_signal(number)
    said, log = process.communicate(timeout=30)
    assert said == f"stopped by {number.name}\n"
    assert f"Told to stop by {number.name}" in log
    assert process.returncode == 0


def test_a_second_signal_ends_the_process_at_once_with_the_documented_code(
    training: list[subprocess.Popen[str]],
) -> None:
    process = start(training, "stop.asked and (print('saving', flush=True), time.sleep(600))")
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == ExitCode.INTERRUPTED


def test_a_signal_after_the_platform_asked_ends_the_process_at_once(training: list[subprocess.Popen[str]]) -> None:
    process = start(training, "stop.ask('the platform'); print('asked', flush=True); time.sleep(600)")
    assert process.stdout is not None
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == ExitCode.INTERRUPTED


def test_a_training_whose_log_nobody_reads_still_hears_a_signal(training: list[subprocess.Popen[str]]) -> None:
    """The signal arrives in the middle of a write that waits for its reader."""
    work = "print('x' * 100_000, flush=True)"
    process = start(training, work)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert said.endswith("stopped by SIGTERM\n")
    assert process.returncode == 0


def test_nothing_happens_until_a_stop_is_asked_for() -> None:
    stop = Stop()
    stop.check()
    assert not stop.asked


def test_the_first_to_ask_is_the_one_named() -> None:
    stop = Stop()
    stop.ask("a newer attempt", superseded=True)
    stop.ask("SIGTERM")
    assert stop.asked
    assert (stop.by, stop.superseded) == ("a newer attempt", True)


def test_whatever_a_callback_is_given_checking_raises() -> None:
    stop = Stop()
    stop.ask("the platform")
    with pytest.raises(StopTrainingError, match="the platform"):
        stop.check(object(), 3)


def test_whoever_sees_that_it_was_asked_also_sees_by_whom() -> None:
    for _ in range(200):
        stop, seen = Stop(), []

        def watch(stop: Stop = stop, seen: list[str] = seen) -> None:
            while not stop.asked:
                os.sched_yield()
            seen.append(stop.by)

        watcher = threading.Thread(target=watch)
        watcher.start()
        stop.ask("somebody")
        watcher.join()
        assert seen == ["somebody"]
