"""The interface between the platform and whatever runs its trainers. It knows nothing of Django."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

# A DNS label, so that the same name serves a folder and a Kubernetes Job.
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def is_valid_name(name: str) -> bool:
    """Whether `name` can name an attempt: 1 to 63 of a-z, 0-9 and inner hyphens."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class LaunchSpec:
    """One attempt to start.

    `name` is unique per attempt, such as `job-12-attempt-1`. `environment` is all that the trainer is
    told; `secret_names` are those of its variables that must never be shown. `devices` are the CUDA
    indices or UUIDs leased to the attempt, none for the CPU. `grace_seconds` lie between asking the
    trainer to stop and killing it.

    Raises ValueError for a name, grace, device or secret name that makes no sense.
    """

    name: str
    environment: Mapping[str, str] = field(repr=False)
    secret_names: frozenset[str]
    devices: tuple[str, ...]
    grace_seconds: float

    def __post_init__(self) -> None:
        if not is_valid_name(self.name):
            raise ValueError(f"{self.name!r} is no attempt name: use up to 63 of a-z, 0-9 and inner hyphens.")
        if not 0 <= self.grace_seconds < float("inf"):
            raise ValueError(f"grace_seconds is {self.grace_seconds}: use a finite number from 0 up.")
        if strangers := self.secret_names - self.environment.keys():
            raise ValueError(f"secret_names names no variable of the environment: {sorted(strangers)}")
        if any(not device or "," in device for device in self.devices):
            raise ValueError(f"devices holds something that is no single device: {self.devices}")


@dataclass(frozen=True)
class Launched:
    """A started attempt: an opaque `reference` to ask about it, where it runs and where its log is."""

    reference: str
    node: str
    log_location: str


@dataclass(frozen=True)
class Alive:
    """The attempt runs, is about to run, or is still being ended."""

    evidence: str


@dataclass(frozen=True)
class Dead:
    """The attempt has ended, and `evidence` says how that is known.

    Either `exit_code` or `signal` is set; both are None where nothing recorded the end. `oom_killed` is
    True only where the kernel's killer for want of memory is known to have ended the trainer.
    """

    exit_code: int | None
    signal: int | None
    ended_at: datetime | None
    evidence: str
    oom_killed: bool = False


@dataclass(frozen=True)
class Unknown:
    """The executor cannot tell. This never ends a job."""

    reason: str


Observation = Alive | Dead | Unknown


@dataclass(frozen=True)
class LogChunk:
    """Bytes of a log. Ask on from `next_offset`; `size` is the whole log's length so far, in bytes."""

    data: bytes
    next_offset: int
    size: int


@dataclass(frozen=True)
class Slot:
    """Room for one attempt: one GPU with its device, or a share of the CPU with none."""

    name: str
    devices: tuple[str, ...]
    kind: Literal["gpu", "cpu"]


class Executor(ABC):
    """Starts trainers and tells what became of them. It decides nothing about jobs."""

    @abstractmethod
    def launch(self, spec: LaunchSpec) -> Launched:
        """Start an attempt, or return the one that was already started under this name.

        Raises LaunchError where no trainer was started.
        """

    @abstractmethod
    def find(self, name: str) -> str | None:
        """The reference of the attempt launched under `name`, None where there was none.

        It serves a platform that died between launching an attempt and noting its reference.
        """

    @abstractmethod
    def observe(self, reference: str) -> Observation:
        """What is known of the attempt now. Failing to find out is an Unknown, not an exception."""

    @abstractmethod
    def stop(self, reference: str, *, force: bool = False) -> None:
        """Ask the attempt to end and return at once; with `force`, kill it without its grace.

        Asking again, or asking something dead, changes nothing. Raises UnknownReferenceError.
        """

    @abstractmethod
    def logs(self, reference: str, offset: int = 0, limit: int = 65536) -> LogChunk:
        """Up to `limit` bytes of the log from byte `offset`; a negative offset counts from the end.

        Raises UnknownReferenceError.
        """

    def undelivered(self, reference: str) -> Path | None:
        """The file of messages that an ended trainer wrote down, where it can be read from here; None where not.

        Raises UnknownReferenceError.
        """
        return None

    def working_size(self, reference: str) -> int:
        """The bytes that `cleanup` would free, 0 where that cannot be told or there is no such attempt."""
        return 0

    @abstractmethod
    def slots(self) -> list[Slot]:
        """All the room there is, leased or not: the platform counts the leases."""

    @abstractmethod
    def cleanup(self, reference: str) -> None:
        """Remove the working files of an ended attempt, once its artifacts are safe.

        What its log and its end were stays readable where the executor can keep it. Doing it again
        changes nothing. Raises StillAliveError unless the attempt is known to be dead, and
        UnknownReferenceError.
        """
