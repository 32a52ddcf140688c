"""The small process that owns one trainer: `python -m apps.executor.supervisor FOLDER GRACE -- COMMAND`.

It outlives whoever launched it, holds the folder's lock for as long as it lives, and leaves the trainer's
end in exit.json. SIGTERM asks the trainer to stop and kills it after GRACE seconds; SIGUSR1 kills it at
once. The command that was started exits 0 as soon as the trainer runs; a second process goes on.

Only light modules of the standard library are imported, and all of them at the top: the platform's
code may be replaced while a training runs for days.
"""

import contextlib
import os
import signal
import sys
import time
import traceback
from datetime import UTC, datetime
from typing import NoReturn

from apps.executor import records
from apps.executor.processes import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_PDEATHSIG,
    ProcessIdentity,
    children_of,
    count_oom_kills,
    identify,
    prctl,
)

BUSY = 3  # Exit code: another supervisor holds the folder.
USED = 4  # Exit code: the folder's attempt was already started.

_AWAITED = {signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD}
_REAP_PATIENCE = 10.0  # Seconds; a process inside an unresponsive driver dies only when that returns.


def main(arguments: list[str]) -> int:
    """Fork the supervisor off, and return once its trainer runs (0) or it gave up (its exit code)."""
    folder, grace, separator, *command = arguments
    if separator != "--" or not command:
        raise SystemExit("usage: python -m apps.executor.supervisor FOLDER GRACE_SECONDS -- COMMAND...")
    # Blocked, and received one at a time in Watch: nothing arrives between two steps.
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    # The second fork leaves no zombie with a launcher that never waits for us again.
    ready, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ready)
        return supervise(os.path.abspath(folder), float(grace), command, report)
    os.close(report)
    if os.read(ready, 1):
        return 0
    return abs(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def supervise(folder: str, grace: float, command: list[str], report: int) -> int:
    """Start the trainer, write to `report` that it runs, see it to its end, and record that."""
    lock = records.take_lock(folder)
    if lock is None:
        return BUSY
    if records.read_process(folder) or records.read_exit(folder):
        return USED
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    oom_kills_before = count_oom_kills()
    records.reserve_exit(folder)
    trainer = start_trainer(folder, command)
    with contextlib.suppress(BrokenPipeError):  # Nobody waits for it any more: the trainer runs all the same.
        os.write(report, b"1")
    os.close(report)

    watch = Watch(trainer, grace)
    code = os.waitstatus_to_exitcode(watch.until_end())
    ended_at = datetime.now(UTC)
    end_descendants()
    oom_kills_after = count_oom_kills()
    _sync(os.path.join(folder, records.TRAINER_LOG))
    records.write_exit(
        folder,
        {
            "exit_code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "ended_at": ended_at.isoformat(),
            "stop_requested": watch.stop_requested,
            "forced": watch.forced and code == -signal.SIGKILL,
            "oom_kills": _difference(oom_kills_before, oom_kills_after),
        },
    )
    return 0


class Watch:
    """Waits for the trainer's end, and passes on the wish to stop it."""

    def __init__(self, trainer: int, grace: float) -> None:
        self.trainer = trainer
        self.grace = grace
        self.stop_requested = False
        self.forced = False
        self._kill_at: float | None = None

    def until_end(self) -> int:
        """The trainer's wait status. By then the rest of its process group has been killed."""
        while (status := self._reap()) is None:
            received = self._next_signal()
            if received == signal.SIGTERM:
                self._ask()
            elif received in (None, signal.SIGUSR1):
                self._kill()
        return status

    def _next_signal(self) -> int | None:
        """The signal that arrived, None where the grace ran out instead."""
        if self._kill_at is None:
            return signal.sigwait(_AWAITED)
        received = signal.sigtimedwait(_AWAITED, max(0.0, self._kill_at - time.monotonic()))
        return received.si_signo if received else None

    def _ask(self) -> None:
        # Once only: a wish that is delivered twice must not cost the trainer its grace.
        if self.stop_requested:
            return
        self.stop_requested = True
        self._kill_at = time.monotonic() + self.grace
        # The trainer alone: it needs its data loaders to finish the batch it is in.
        os.kill(self.trainer, signal.SIGTERM)

    def _kill(self) -> None:
        self.stop_requested = self.forced = True
        self._kill_at = None
        _kill_group(self.trainer)

    def _reap(self) -> int | None:
        """Take leave of whoever has died; the trainer's wait status if it is among them."""
        while True:
            # Looked at before it is reaped: until then no new process group can have its number.
            died = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if died is None:
                return None
            if died.si_pid == self.trainer:
                _kill_group(self.trainer)
            status = os.waitpid(died.si_pid, 0)[1]
            if died.si_pid == self.trainer:
                return status


def start_trainer(folder: str, command: list[str]) -> int:
    """Fork the trainer and return its pid. It runs the command only once process.json is written.

    Raises OSError; the trainer then never begins.
    """
    work = os.path.join(folder, records.WORK)
    with contextlib.suppress(FileExistsError):
        os.mkdir(work, 0o700)
    supervisor = os.getpid()
    gate, opener = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(opener)
        _become_trainer(folder, command, supervisor, gate)
    os.close(gate)
    os.setpgid(pid, pid)
    records.write_process(
        folder,
        {
            "supervisor": _must_identify(supervisor),
            "trainer": _must_identify(pid),
            "started_at": datetime.now(UTC).isoformat(),
            "node": os.uname().nodename,
        },
    )
    os.write(opener, b"1")
    os.close(opener)
    return pid


def end_descendants() -> None:
    """Kill and reap every process the trainer left behind, its runaways included.

    Whatever loses its parent becomes our child, so killing the direct children reaches them all.
    """
    deadline = time.monotonic() + _REAP_PATIENCE
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            for child in children_of(os.getpid()):
                with contextlib.suppress(PermissionError):  # It changed its user.
                    os.kill(child, signal.SIGKILL)
            signal.sigtimedwait({signal.SIGCHLD}, 0.05)
    print("Some processes of the trainer did not die:", children_of(os.getpid()), file=sys.stderr)


def _become_trainer(folder: str, command: list[str], supervisor: int, gate: int) -> NoReturn:
    """Turn the forked child into the trainer. It inherits the environment and no descriptor."""
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        # A supervisor that died before the line above sends no signal any more.
        if os.getppid() != supervisor:
            os._exit(1)
        _redirect(os.path.join(folder, records.TRAINER_LOG))
        if os.read(gate, 1) != b"1":
            os._exit(1)
        # Where memory runs out, the trainer goes rather than the platform beside it.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
        os.chdir(os.path.join(folder, records.WORK))
        # Ignored signals stay ignored through exec, those that Python itself ignores too.
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvp(command[0], command)  # noqa: S606 - a shell is what is not wanted
    except BaseException:  # noqa: BLE001 - past this point a second supervisor would run on
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(127)


def _redirect(log: str) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)


def _must_identify(pid: int) -> ProcessIdentity:
    identity = identify(pid)
    if identity is None:
        raise ProcessLookupError(f"Process {pid} is gone.")
    return identity


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _sync(path: str) -> None:
    with contextlib.suppress(OSError), open(path, "ab") as file:
        os.fsync(file.fileno())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
