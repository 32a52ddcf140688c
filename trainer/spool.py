"""Messages on disk until the platform has them: an append-only file of JSON lines, and a note of what is acked."""

import json
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from trainer.contract.messages import AnyEvent

MESSAGES = "messages.jsonl"  # the spool's name in a trainer's working folder
_EVENTS: TypeAdapter[list[AnyEvent]] = TypeAdapter(list[AnyEvent])


def read_events(path: Path, after: int) -> list[AnyEvent]:
    """The events with a number above `after` in the spool of a trainer that has ended; a torn last line is none.

    Raises OSError, and ValueError for what is no spool.
    """
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    rows = [row for line in lines if (row := json.loads(line))["seq"] > after]
    return _EVENTS.validate_python(rows)


class Spool:
    """Append from any thread, read from one. What was appended survives a crash of the process."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._acked_path = path.with_suffix(".acked")
        self._lock = threading.Lock()
        self._drop_torn_end()
        self.acked: int = self._read_acked()
        # A number that was acknowledged is never given out again: the platform would take it for a repetition.
        self.last_seq: int = max([self.acked, *(event["seq"] for event in self._events())])
        self._file = path.open("a", encoding="utf-8")
        # Where to read on: everything before it is acked.
        self._offset = 0

    def append(self, kind: str, at: str, data: dict[str, Any]) -> int:
        """Write one event down and return its number."""
        with self._lock:
            seq: int = self.last_seq + 1
            line = json.dumps({"seq": seq, "type": kind, "at": at, "data": _sendable(data)}, ensure_ascii=False)
            self._file.write(line + "\n")
            self._file.flush()
            self.last_seq = seq
            return seq

    def pending(self, limit: int, max_bytes: int) -> list[dict[str, Any]]:
        """The oldest events not acked yet: at most `limit`, and `max_bytes` of text unless one alone is more."""
        events: list[dict[str, Any]] = []
        size = 0
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # being written this moment
                event = json.loads(line)
                if event["seq"] <= self.acked:
                    self._offset += len(line)
                    continue
                if events and (len(events) == limit or size + len(line) > max_bytes):
                    break
                events.append(event)
                size += len(line)
        return events

    def ack(self, seq: int) -> None:
        """Forget every event up to `seq`."""
        if seq <= self.acked:
            return
        with self._lock:
            self.acked, self.last_seq = seq, max(self.last_seq, seq)
        self._note_acked()

    def rewind(self, seq: int) -> None:
        """Have everything after `seq` sent again: the platform no longer has it."""
        self.acked, self._offset = seq, 0
        self._note_acked()

    @property
    def empty(self) -> bool:
        return self.acked >= self.last_seq

    def _note_acked(self) -> None:
        draft = self._acked_path.with_suffix(".tmp")
        draft.write_text(str(self.acked))
        draft.replace(self._acked_path)

    def _events(self) -> Iterator[dict[str, Any]]:
        if self._path.exists():
            with self._path.open("rb") as file:
                yield from (json.loads(line) for line in file)

    def _read_acked(self) -> int:
        """0 where a crash left the note unreadable: a message sent twice is recognised, one not sent is lost."""
        try:
            return int(self._acked_path.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def _drop_torn_end(self) -> None:
        """A crash in the middle of a write leaves half a line; that event was never said."""
        if not self._path.exists():
            return
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self._path, whole)


def _sendable(value: Any) -> Any:
    """NaN and infinity, for which JSON has no word, become null."""
    if isinstance(value, dict):
        return {name: _sendable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_sendable(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
