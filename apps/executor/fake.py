"""An executor for tests that starts nothing: the test plays the trainer's part."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGKILL, SIGTERM

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
)
from apps.executor.errors import LaunchError, StillAliveError, UnknownReferenceError

ONE_CPU = Slot("cpu:0", (), "cpu")


@dataclass
class FakeAttempt:
    """What the fake knows of one attempt. A test may change any of it."""

    spec: LaunchSpec
    observation: Observation = field(default_factory=lambda: Alive("the script says so"))
    log: bytes = b""
    spool: Path | None = None
    stops: list[bool] = field(default_factory=list)
    cleaned: bool = False


class FakeExecutor(Executor):
    """Keeps its attempts in memory, by reference, in the order of their launches.

    `launches` counts trainers, not calls. With `obeys_stop` a stopped attempt is dead at once;
    without, it lives on until the test lets it end.
    """

    def __init__(self, slots: list[Slot] | None = None, *, obeys_stop: bool = True) -> None:
        self.attempts: dict[str, FakeAttempt] = {}
        self.launches: list[LaunchSpec] = []
        self.room = [ONE_CPU] if slots is None else slots
        self.obeys_stop = obeys_stop
        self._launch_errors: list[LaunchError] = []
        self._replies_to_lose = 0

    def fail_next_launch(self, message: str = "no room", *, retryable: bool = True) -> None:
        """Let the next launch that is not yet spoken for start nothing and raise LaunchError."""
        self._launch_errors.append(LaunchError(message, retryable=retryable))

    def lose_next_reply(self) -> None:
        """Let the next launch start its trainer and then raise ConnectionError, as a crash would."""
        self._replies_to_lose += 1

    def script(self, reference: str, observation: Observation) -> None:
        """Set what `observe` answers from now on."""
        self._attempt(reference).observation = observation

    def finish(self, reference: str, exit_code: int | None = 0, *, signal: int | None = None) -> None:
        """Let the trainer end now, with an exit code or, where `signal` is given, by that signal."""
        code = exit_code if signal is None else None
        self.script(reference, Dead(code, signal, datetime.now(UTC), "the script says so"))

    def write_log(self, reference: str, data: bytes) -> None:
        """Append to the attempt's log."""
        self._attempt(reference).log += data

    def launch(self, spec: LaunchSpec) -> Launched:
        reference = f"fake/{spec.name}"
        if reference not in self.attempts:
            if self._launch_errors:
                raise self._launch_errors.pop(0)
            self.attempts[reference] = FakeAttempt(spec)
            self.launches.append(spec)
            if self._replies_to_lose:
                self._replies_to_lose -= 1
                raise ConnectionError("The reply to the launch was lost.")
        return Launched(reference, "fake-node", f"memory:{spec.name}")

    def find(self, name: str) -> str | None:
        reference = f"fake/{name}"
        return reference if reference in self.attempts else None

    def observe(self, reference: str) -> Observation:
        attempt = self.attempts.get(reference)
        return attempt.observation if attempt else Unknown(f"No attempt is known as {reference!r}.")

    def stop(self, reference: str, *, force: bool = False) -> None:
        attempt = self._attempt(reference)
        attempt.stops.append(force)
        if self.obeys_stop and not isinstance(attempt.observation, Dead):
            self.finish(reference, signal=SIGKILL if force else SIGTERM)

    def logs(self, reference: str, offset: int = 0, limit: int = 65536) -> LogChunk:
        log = self._attempt(reference).log
        start = min(offset, len(log)) if offset >= 0 else max(0, len(log) + offset)
        data = log[start : start + limit]
        return LogChunk(data, start + len(data), len(log))

    def undelivered(self, reference: str) -> Path | None:
        return self._attempt(reference).spool

    def slots(self) -> list[Slot]:
        return list(self.room)

    def cleanup(self, reference: str) -> None:
        attempt = self._attempt(reference)
        if not isinstance(attempt.observation, Dead):
            raise StillAliveError(f"{reference} is not known to be dead: {attempt.observation}")
        attempt.cleaned = True

    def _attempt(self, reference: str) -> FakeAttempt:
        try:
            return self.attempts[reference]
        except KeyError:
            raise UnknownReferenceError(reference) from None
