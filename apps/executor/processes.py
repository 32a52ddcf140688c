"""Linux processes: which one exactly, whose children, and what the kernel killed.

Read from /proc rather than through psutil: importing that costs the supervisor more than all the rest of
its start, and its creation times shift when the machine's clock is set.
"""

import ctypes
import os
from typing import TypedDict

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


class ProcessIdentity(TypedDict):
    """A process that no later one can be mistaken for: `started` is the boot and the tick it began at."""

    pid: int
    started: str


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of the process that has this pid now, None where none has or only a zombie."""
    fields = _stat(pid)
    if fields is None or fields[0] in "ZX":
        return None
    return {"pid": pid, "started": f"{_boot_id()}/{fields[19]}"}


def is_running(process: ProcessIdentity) -> bool:
    """Whether exactly this process still runs: not a zombie, not another that inherited its pid."""
    return identify(process["pid"]) == process


def children_of(parent: int) -> list[int]:
    """The pids of the direct children of `parent`, zombies left out."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    found = []
    for pid in pids:
        fields = _stat(pid)
        if fields is not None and fields[0] not in "ZX" and int(fields[1]) == parent:
            found.append(pid)
    return found


def prctl(option: int, value: int) -> None:
    """Call prctl(2). Raises OSError."""
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def count_oom_kills() -> int | None:
    """How many processes of this process's cgroup the kernel killed for want of memory, if it counts."""
    for path in _oom_counters():
        try:
            with open(path) as file:
                for line in file:
                    key, _, value = line.partition(" ")
                    if key == "oom_kill":
                        return int(value)
        except (OSError, ValueError):
            continue
    return None


def _oom_counters() -> list[str]:
    """Where the counter may be: cgroup 2 or 1, seen from the machine or from inside a container."""
    try:
        with open("/proc/self/cgroup") as file:
            groups = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return []
    paths = []
    for _, controllers, group in groups:
        if controllers == "":
            paths += [f"/sys/fs/cgroup{group}/memory.events", "/sys/fs/cgroup/memory.events"]
        elif "memory" in controllers.split(","):
            base = "/sys/fs/cgroup/memory"
            paths += [f"{base}{group}/memory.oom_control", f"{base}/memory.oom_control"]
    return paths


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on, None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            content = file.read().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None  # The last is how /proc may be mounted to hide what belongs to others.
    # The name before the state may itself hold spaces and brackets.
    return content.rpartition(")")[2].split()


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
