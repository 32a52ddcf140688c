"""Logs on stdout: JSON lines for collectors, readable text on a terminal."""

import json
import logging
import re
import sys
import time
from io import TextIOWrapper
from typing import IO, Any, Literal

LogFormat = Literal["auto", "json", "text"]


_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC, RFC 3339), level, job, attempt, message."""

    def __init__(self, job: int, attempt: int) -> None:
        super().__init__()
        self._who = {"job": job, "attempt": attempt}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            **self._who,
            "logger": record.name,
            "message": _ANSI.sub("", record.getMessage()).strip("\n"),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class StdoutToLog:
    """Stands in for sys.stdout, so that what libraries print becomes log records.

    ultralytics' progress bars look for `progress` and hand it their frames, which are no log.
    """

    encoding = "utf-8"

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._logger.info("%s", line.rstrip())
        return len(text)

    def progress(self, bar: int, frame: str) -> None:
        """A redrawn progress bar: left out."""

    def flush(self) -> None:
        """Lines are logged as they end; there is nothing to flush."""

    def isatty(self) -> bool:
        return False


def set_up(log_format: LogFormat, job: int, attempt: int) -> None:
    """Send every log record to stdout in `log_format`, and in JSON also what anything prints."""
    stdout: IO[str] = sys.stdout
    if isinstance(stdout, TextIOWrapper):
        # A file name that is not UTF-8 reaches us as lone surrogates: escaped, or its whole line would be lost.
        stdout.reconfigure(errors="backslashreplace")
    as_json = log_format == "json" or (log_format == "auto" and not stdout.isatty())
    handler = logging.StreamHandler(stdout)
    if as_json:
        handler.addFilter(lambda record: bool(record.getMessage().strip()))  # an empty line is layout, not news
    handler.setFormatter(
        JsonLines(job, attempt) if as_json else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for chatty in ("httpx", "httpcore", "alembic", "mlflow", "botocore", "boto3", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if as_json:
        sys.stdout = StdoutToLog(logging.getLogger("stdout"))
