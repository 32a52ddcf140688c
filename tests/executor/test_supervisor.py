"""How a trainer is stopped, and what becomes of everything it started."""

import os
import signal
from pathlib import Path

import pytest

from apps.executor.base import Alive, Dead
from apps.executor.processes import children_of, identify, is_running

NAME = "job-1-attempt-1"

# A trainer with a child in its own group; both note the SIGTERM they get, neither minds it.
STUBBORN = """
    import os, signal, time
    def note(who):
        signal.signal(signal.SIGTERM, lambda *_: open(who + ".term", "w").close())
    if child := os.fork():
        note("trainer")
        print(child, flush=True)
    else:
        note("child")
    while True:
        time.sleep(0.05)
"""

# A trainer whose grandchild runs off into a session of its own, where nobody asks it anything.
RUNAWAY = """
    import os, signal, time
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.write(write, str(os.getpid()).encode())
            time.sleep(600)
        os._exit(0)
    print(os.read(read, 20).decode(), flush=True)
    {then}
"""


@pytest.fixture
def launch(executor_of, make_spec, eventually):
    """Launches the source, and returns the executor and the number that the trainer prints first."""

    def start(source, grace=30.0):
        executor = executor_of(source)
        executor.launch(make_spec(NAME, grace))
        line = eventually(lambda: executor.logs(NAME).data.partition(b"\n")[0])
        return executor, int(line)

    return start


def test_a_trainer_that_obeys_ends_in_its_own_way(launch, until_dead):
    executor, _ = launch("""
        import signal, time
        def leave(*_):
            print("saving", flush=True)
            raise SystemExit(75)
        signal.signal(signal.SIGTERM, leave)
        print(1, flush=True)
        time.sleep(600)
    """)
    executor.stop(NAME)
    dead = until_dead(executor, NAME)
    assert dead.exit_code == 75
    assert "asked to stop" in dead.evidence
    assert executor.logs(NAME).data == b"1\nsaving\n"


def test_only_the_trainer_is_asked_and_the_grace_lets_it_go_on(launch, eventually):
    executor, child = launch(STUBBORN)
    work = executor.root / NAME / "work"
    executor.stop(NAME)
    eventually((work / "trainer.term").exists)
    (work / "trainer.term").unlink()
    assert isinstance(executor.observe(NAME), Alive)
    assert identify(child) is not None
    assert not (work / "child.term").exists()


def test_asking_again_and_again_neither_shortens_nor_prolongs_the_grace(launch, eventually):
    executor, _ = launch(STUBBORN, grace=1.0)
    executor.stop(NAME)
    executor.stop(NAME)
    assert isinstance(executor.observe(NAME), Alive)

    def ask_and_look():
        executor.stop(NAME)
        return isinstance(executor.observe(NAME), Dead)

    eventually(ask_and_look)


def test_after_the_grace_the_whole_group_is_killed(launch, until_dead, eventually):
    executor, child = launch(STUBBORN, grace=0.2)
    executor.stop(NAME)
    dead = until_dead(executor, NAME)
    assert dead.signal == signal.SIGKILL
    assert "SIGKILL from its supervisor" in dead.evidence
    assert not dead.oom_killed
    assert not Path("/proc", str(child)).exists()


def test_force_does_not_wait_for_the_grace(launch, until_dead):
    executor, child = launch(STUBBORN, grace=100_000.0)
    executor.stop(NAME)
    executor.stop(NAME, force=True)
    assert until_dead(executor, NAME).signal == signal.SIGKILL
    assert not Path("/proc", str(child)).exists()


@pytest.mark.parametrize("then", ["", "time.sleep(600)"], ids=["when it ends", "when it is killed"])
def test_a_runaway_grandchild_dies_with_its_trainer(launch, until_dead, then):
    executor, grandchild = launch(RUNAWAY.format(then=then))
    if then:
        assert identify(grandchild) is not None
        executor.stop(NAME, force=True)
    until_dead(executor, NAME)
    assert not Path("/proc", str(grandchild)).exists()


def test_an_orphan_that_ends_meanwhile_is_reaped(launch, process_record, eventually):
    executor, grandchild = launch(RUNAWAY.format(then="time.sleep(600)"))
    eventually(lambda: grandchild in children_of(process_record()["supervisor"]["pid"]))
    os.kill(grandchild, signal.SIGKILL)
    eventually(lambda: not Path("/proc", str(grandchild)).exists())
    assert isinstance(executor.observe(NAME), Alive)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_closed_terminal_does_not_reach_the_supervisor(launch, process_record, until_dead, number):
    executor, _ = launch("import time; print(1, flush=True); time.sleep(600)")
    os.kill(process_record()["supervisor"]["pid"], number)
    executor.stop(NAME)
    assert until_dead(executor, NAME).signal == signal.SIGTERM


def test_killing_the_supervisor_ends_the_trainer_and_reads_as_dead(launch, process_record, until_dead):
    executor, _ = launch("""
        import signal, time
        def leave(*_):
            print("asked", flush=True)
            raise SystemExit
        signal.signal(signal.SIGTERM, leave)
        print(1, flush=True)
        time.sleep(600)
    """)
    os.kill(process_record()["supervisor"]["pid"], signal.SIGKILL)
    dead = until_dead(executor, NAME)
    assert (dead.exit_code, dead.signal, dead.ended_at) == (None, None, None)
    assert "left no exit record" in dead.evidence
    assert executor.logs(NAME).data == b"1\nasked\n"


def test_a_trainer_without_its_supervisor_can_still_be_stopped(launch, process_record, until_dead, eventually):
    executor, child = launch(STUBBORN)
    record = process_record()
    os.kill(record["supervisor"]["pid"], signal.SIGKILL)
    work = executor.root / NAME / "work"
    eventually((work / "trainer.term").exists)
    eventually(lambda: not is_running(record["supervisor"]))
    assert isinstance(executor.observe(NAME), Alive)
    (work / "trainer.term").unlink()
    executor.stop(NAME)
    eventually((work / "trainer.term").exists)
    executor.stop(NAME, force=True)
    assert isinstance(until_dead(executor, NAME), Dead)
    eventually(lambda: identify(child) is None)


def test_room_for_the_exit_record_is_kept_from_the_start(launch, until_dead):
    executor, _ = launch("import time; print(1, flush=True); time.sleep(600)")
    kept = executor.root / NAME / "exit.json.tmp"
    assert kept.stat().st_size == 1024
    executor.stop(NAME)
    until_dead(executor, NAME)
    assert not kept.exists()


def test_a_program_that_cannot_be_run_ends_with_the_reason_in_its_log(executor_of, make_spec, until_dead):
    executor = executor_of("")
    script = executor.root.parent / "not_a_program"
    script.write_bytes(b"\x7fELF, it is not")
    script.chmod(0o700)
    executor.command = (str(script),)
    dead = until_dead(executor, executor.launch(make_spec()).reference)
    assert dead.exit_code == 127
    assert b"Exec format error" in executor.logs(NAME).data
