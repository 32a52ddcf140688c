"""A trainer's log as a person reads it: its lines taken apart, and the file itself."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from django.utils.translation import gettext as _

from apps.executor.errors import ExecutorError
from apps.jobs import selectors
from apps.jobs.models import Attempt

TAIL_LINES = 200
_TAIL_BYTES = 65_536
_CHUNK = 1 << 20
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LEVELS = frozenset({"debug", "info", "warning", "error", "critical"})


@dataclass(frozen=True)
class Line:
    """One line; `time` and `level` are empty where a library wrote it past the logging."""

    message: str
    time: str = ""
    level: str = ""


@dataclass(frozen=True)
class Tail:
    """The last lines of a log. `size` is the whole log's, in bytes; `problem` says why there are none."""

    lines: list[Line]
    size: int = 0
    problem: str = ""


def tail(attempt: Attempt | None) -> Tail:
    if attempt is None:
        return Tail([])
    try:
        chunk = selectors.read_log(attempt, offset=-_TAIL_BYTES, limit=_TAIL_BYTES)
    except ExecutorError as error:
        return Tail([], problem=_("The log cannot be read: %(error)s") % {"error": error})
    text = chunk.data.decode(errors="replace")
    lines = text.splitlines()
    if chunk.size > len(chunk.data):
        lines = lines[1:]  # the first one is cut
    return Tail([parse(line) for line in lines[-TAIL_LINES:] if line.strip()], chunk.size)


def parse(line: str) -> Line:
    """A JSON line by its parts, anything else as it is, less the escapes that colour a terminal."""
    plain = _ESCAPES.sub("", line)
    try:
        said = json.loads(plain)
    except ValueError:
        return Line(plain)
    if not isinstance(said, dict) or "message" not in said:
        return Line(plain)
    level = str(said.get("level", "")).lower()
    message = "\n".join(str(said[part]) for part in ("message", "traceback") if said.get(part))
    return Line(message, _time_of_day(str(said.get("time", ""))), level if level in _LEVELS else "")


def whole(attempt: Attempt) -> Iterator[bytes]:
    """The log from its beginning, as much of it as there was when it was asked for.

    Raises:
        ExecutorError: at the first piece where the log cannot be had.
    """
    offset, end = 0, None
    while end is None or offset < end:
        chunk = selectors.read_log(attempt, offset=offset, limit=_CHUNK)
        end = chunk.size if end is None else end
        if not chunk.data:
            return
        yield chunk.data
        offset = chunk.next_offset


def _time_of_day(time: str) -> str:
    """`08:15:30` of `2026-11-03T08:15:30.123Z`."""
    return time.partition("T")[2][:8]
