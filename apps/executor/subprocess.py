"""Trainers as processes of this machine, each owned by a supervisor that outlives the platform.

An attempt is a folder, described in `records`; its reference is the folder's name. Linux only.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from apps.executor import records, supervisor
from apps.executor.base import (
    Alive,
    Dead,
    Executor,
    Launched,
    LaunchSpec,
    LogChunk,
    Observation,
    Slot,
    Unknown,
    is_valid_name,
)
from apps.executor.environment import detect_devices, trainer_environment
from apps.executor.errors import LaunchError, StillAliveError, UnknownReferenceError
from apps.executor.processes import is_running
from trainer.spool import MESSAGES

_SOURCES = Path(__file__).resolve().parents[2]
_LAUNCH_SECONDS = 10.0
_FRESH_SECONDS = 15.0  # Longer than a launch may take: a younger folder may still get its supervisor.
_QUOTED_CHARACTERS = 2000  # Of supervisor.log, in the message of a LaunchError.


class SubprocessExecutor(Executor):
    """Runs `command` for each attempt, in a folder of its own below `root`.

    `devices` are the GPUs to hand out, None to look for them; where there are none, `cpu_slots` attempts
    run side by side. `pythonpath` is the folder that holds `apps` and `trainer`.
    """

    def __init__(
        self,
        root: Path,
        command: Sequence[str],
        devices: Sequence[str] | None = None,
        cpu_slots: int = 1,
        pythonpath: Path = _SOURCES,
    ) -> None:
        self.root = root.absolute()
        self.command = tuple(command)
        self.cpu_slots = cpu_slots
        self.pythonpath = pythonpath.absolute()
        self._devices = None if devices is None else tuple(devices)

    def launch(self, spec: LaunchSpec) -> Launched:
        environment = trainer_environment(os.environ, spec, self.pythonpath)
        if shutil.which(self.command[0], path=environment.get("PATH")) is None:
            raise LaunchError(f"The trainer's program {self.command[0]!r} was not found.", retryable=False)
        folder = self.root / spec.name
        try:
            record = records.read_process(str(folder))
            if record is None:
                record = self._start(folder, spec.grace_seconds, environment)
        except ValueError:
            # The message of a bad variable may quote it, so the cause is left out.
            raise LaunchError("The trainer's environment or a record is malformed.", retryable=False) from None
        except OSError as error:
            raise LaunchError(f"The trainer could not be started: {error}", retryable=True) from error
        return Launched(spec.name, record["node"], str(folder / records.TRAINER_LOG))

    def find(self, name: str) -> str | None:
        known = is_valid_name(name) and records.read_process(str(self.root / name)) is not None
        return name if known else None

    def observe(self, reference: str) -> Observation:
        try:
            return _observe(self._folder(reference))
        except UnknownReferenceError as error:
            return Unknown(str(error))
        except (OSError, ValueError, LookupError) as error:
            return Unknown(f"The attempt's folder could not be read: {error}")

    def stop(self, reference: str, *, force: bool = False) -> None:
        record = records.read_process(str(self._folder(reference)))
        if record is None:
            return
        # Either may end while it is being asked.
        with contextlib.suppress(ProcessLookupError):
            if is_running(record["supervisor"]):
                os.kill(record["supervisor"]["pid"], signal.SIGUSR1 if force else signal.SIGTERM)
            elif is_running(record["trainer"]) and force:
                os.killpg(record["trainer"]["pid"], signal.SIGKILL)
            elif is_running(record["trainer"]):
                os.kill(record["trainer"]["pid"], signal.SIGTERM)

    def logs(self, reference: str, offset: int = 0, limit: int = 65536) -> LogChunk:
        try:
            file = open(self._folder(reference) / records.TRAINER_LOG, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            return LogChunk(b"", 0, 0)
        with file:
            size = os.fstat(file.fileno()).st_size
            start = min(offset, size) if offset >= 0 else max(0, size + offset)
            file.seek(start)
            # No further than `size`, so that the three numbers agree while the trainer writes on.
            data = file.read(max(0, min(limit, size - start)))
        return LogChunk(data, start + len(data), size)

    def undelivered(self, reference: str) -> Path | None:
        spool = self._folder(reference) / records.WORK / MESSAGES
        return spool if spool.is_file() else None

    def working_size(self, reference: str) -> int:
        if not is_valid_name(reference):
            return 0
        size = 0
        for folder, _folders, names in os.walk(self.root / reference / records.WORK):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # just deleted
                    size += os.lstat(os.path.join(folder, name)).st_size
        return size

    def slots(self) -> list[Slot]:
        if self._devices is None:
            self._devices = detect_devices()
        if self._devices:
            return [Slot(f"gpu:{device}", (device,), "gpu") for device in self._devices]
        return [Slot(f"cpu:{number}", (), "cpu") for number in range(self.cpu_slots)]

    def cleanup(self, reference: str) -> None:
        folder = self._folder(reference)
        observation = self.observe(reference)
        if not isinstance(observation, Dead):
            raise StillAliveError(f"{reference} is not known to be dead: {observation}")
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder / records.WORK)

    def _folder(self, reference: str) -> Path:
        """The attempt's folder. Raises UnknownReferenceError where there is none."""
        folder = self.root / reference
        # The name is checked first: a reference with a slash in it must not lead out of the root.
        if not is_valid_name(reference) or not folder.is_dir():
            raise UnknownReferenceError(reference)
        return folder

    def _start(self, folder: Path, grace: float, environment: dict[str, str]) -> records.ProcessRecord:
        """Start the supervisor, and wait until it has recorded its trainer. Raises LaunchError, OSError."""
        self.root.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        os.utime(folder)  # A folder left by a failed launch is fresh again.
        # -P keeps the current directory, which a trainer may write to, off the supervisor's import path.
        command = [
            sys.executable,
            "-P",
            "-m",
            supervisor.__name__,
            str(folder),
            str(grace),
            "--",
            *self.command,
        ]
        with open(folder / records.SUPERVISOR_LOG, "ab") as log:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        code = _wait_or_kill(process, _LAUNCH_SECONDS)
        record = _await_record(str(folder), _LAUNCH_SECONDS)
        if record is None:
            raise LaunchError(_explain(folder, code), retryable=True)
        return record


def _wait_or_kill(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The exit code of the launching process, None where it took too long and was killed.

    Its supervisor shares its process group and dies with it. A trainer that was not yet recorded then
    never begins, so that the caller may try again.
    """
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def _await_record(folder: str, seconds: float) -> records.ProcessRecord | None:
    """What a supervisor recorded, once one has or none is left that could.

    Whoever holds the lock is another launch of the same attempt, or has been killed and is not gone yet.
    """
    deadline = time.monotonic() + seconds
    while records.read_process(folder) is None and records.is_locked(folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    return records.read_process(folder)


def _explain(folder: Path, code: int | None) -> str:
    said = (folder / records.SUPERVISOR_LOG).read_text(errors="replace")[-_QUOTED_CHARACTERS:].strip()
    fate = f"ended with code {code}" if code is not None else f"did not answer in {_LAUNCH_SECONDS:.0f} s"
    return f"The supervisor {fate} and started no trainer. It said: {said or 'nothing'}"


def _observe(folder: Path) -> Observation:
    # Read before the lock is tried: a supervisor recorded here has held the lock, so if it is free
    # now, that supervisor is gone for good and its exit record, if any, is final.
    process = records.read_process(str(folder))
    if records.is_locked(str(folder)):
        return Alive("the supervisor holds its lock")
    ended = records.read_exit(str(folder))
    if ended is not None:
        return _read_end(ended)
    if process is None:
        age = time.time() - folder.stat().st_mtime
        if age < _FRESH_SECONDS:
            return Unknown("the attempt is being launched, or its launch has just failed")
        return Dead(None, None, None, "the trainer was never started: no supervisor has taken the attempt up")
    if is_running(process["trainer"]):
        return Alive(f"the supervisor is gone, the trainer still runs as process {process['trainer']['pid']}")
    return Dead(
        None,
        None,
        None,
        "supervisor and trainer are gone and left no exit record (killed, or the machine restarted)",
    )


def _read_end(ended: records.ExitRecord) -> Dead:
    """The exit record in words. Raises ValueError or LookupError for one that is malformed."""
    number = ended["signal"]
    if number is None:
        evidence = f"the trainer exited with code {ended['exit_code']}"
    else:
        evidence = f"the trainer was ended by {_signal_name(number)}"
    if ended["forced"]:
        evidence += " from its supervisor"
    if ended["stop_requested"]:
        evidence += ", after it was asked to stop"
    if ended["oom_kills"]:
        evidence += f"; meanwhile the kernel killed {ended['oom_kills']} of its cgroup for want of memory"
    return Dead(
        exit_code=ended["exit_code"],
        signal=number,
        ended_at=datetime.fromisoformat(ended["ended_at"]),
        evidence=evidence,
        oom_killed=bool(ended["oom_kills"]) and number == signal.SIGKILL and not ended["forced"],
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
