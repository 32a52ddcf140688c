"""The files of one attempt's folder that supervisor and executor share.

The supervisor imports this at every launch, so it stays with the standard library's light modules.

    <root>/<name>/         mode 0700
        supervisor.lock    locked by the supervisor for as long as it lives
        supervisor.log     what the supervisor itself had to say, normally empty
        process.json       who supervises and who trains; written before the trainer's first instruction
        trainer.log        the trainer's stdout and stderr
        exit.json          how the trainer ended; written before the lock is released
        work/              the trainer's working directory
"""

import fcntl
import json
import os
import time
from typing import Any, TypedDict

from apps.executor.processes import ProcessIdentity

LOCK = "supervisor.lock"
SUPERVISOR_LOG = "supervisor.log"
TRAINER_LOG = "trainer.log"
PROCESS = "process.json"
EXIT = "exit.json"
WORK = "work"

# Bytes set aside for exit.json at launch: a disk that training has filled must not swallow its end.
_RESERVED = 1024

_LOCK_PATIENCE = 1.0  # Seconds; an observer that tries the lock holds it for microseconds.


class ProcessRecord(TypedDict):
    """Content of process.json. `started_at` is ISO 8601 in UTC."""

    supervisor: ProcessIdentity
    trainer: ProcessIdentity
    started_at: str
    node: str


class ExitRecord(TypedDict):
    """Content of exit.json: `exit_code` or `signal`, and what the supervisor did about it.

    `forced` says that the supervisor killed the trainer; `oom_kills` counts the kills for want of
    memory in the trainer's cgroup during the run, None where the cgroup does not count them.
    """

    exit_code: int | None
    signal: int | None
    ended_at: str
    stop_requested: bool
    forced: bool
    oom_kills: int | None


def read_process(folder: str) -> ProcessRecord | None:
    """The attempt's process record, None where there is none."""
    data: ProcessRecord | None = _read(os.path.join(folder, PROCESS))
    return data


def write_process(folder: str, record: ProcessRecord) -> None:
    """Write process.json. Raises OSError."""
    _write(os.path.join(folder, PROCESS), record)


def read_exit(folder: str) -> ExitRecord | None:
    """The attempt's exit record, None where there is none."""
    data: ExitRecord | None = _read(os.path.join(folder, EXIT))
    return data


def write_exit(folder: str, record: ExitRecord) -> None:
    """Write exit.json into the room that `reserve_exit` kept. Raises OSError."""
    _write(os.path.join(folder, EXIT), record)


def reserve_exit(folder: str) -> None:
    """Take the disk space that exit.json will need. Raises OSError, such as for a full disk."""
    with open(os.path.join(folder, EXIT + ".tmp"), "wb", opener=_private) as file:
        file.write(b" " * _RESERVED)
        file.flush()
        os.fsync(file.fileno())


def take_lock(folder: str) -> int | None:
    """Lock the folder for this process and return the descriptor; None where another supervisor has it."""
    descriptor = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                return None
        time.sleep(0.01)


def is_locked(folder: str) -> bool:
    """Whether a supervisor holds the folder's lock. Raises OSError where that cannot be asked."""
    try:
        descriptor = os.open(os.path.join(folder, LOCK), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared: two observers that ask at the same moment must not take each other for a supervisor.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Unlocked before closing: a fork in another thread may just have copied the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _read(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def _write(path: str, record: ProcessRecord | ExitRecord) -> None:
    """Replace the file in one step, reusing the blocks of a reserved temporary file."""
    payload = json.dumps(record).encode()
    temporary = path + ".tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, payload)
        os.ftruncate(descriptor, len(payload))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
