"""Logs on stdout: one JSON object a line for collectors, text for people."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]


def run(code: str, log_format: str = "json", **options: Any) -> subprocess.CompletedProcess[str]:
    code = f"import logging\nfrom trainer import logs\nlogs.set_up({log_format!r}, 7, 2)\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        **options,
    )


def lines(code: str, log_format: str = "json") -> list[dict[str, Any]]:
    done = run(code, log_format)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_record_is_one_line_of_json_that_says_when_who_and_what() -> None:
    (line,) = lines("logging.getLogger('trainer.run').info('오늘 %s', 'ok')")
    said = datetime.fromisoformat(line.pop("time").replace("Z", "+00:00"))
    assert abs(datetime.now(UTC) - said) < timedelta(minutes=1)
    assert line == {"level": "info", "job": 7, "attempt": 2, "logger": "trainer.run", "message": "오늘 ok"}


def test_text_of_several_lines_and_tracebacks_stay_on_one_line() -> None:
    (line,) = lines("try: 1 / 0\nexcept ZeroDivisionError: logging.exception('first\\nsecond')")
    assert line["message"] == "first\nsecond"
    assert line["level"] == "error"
    assert line["traceback"].startswith("Traceback")
    assert line["traceback"].endswith("ZeroDivisionError: division by zero")


def test_what_libraries_print_becomes_records() -> None:
    said = lines("print('one'); print('two', end=' '); print('three'); print(); print('   '); print('four\\nfive')")
    assert [line["message"] for line in said] == ["one", "two three", "four", "five"]
    assert {line["logger"] for line in said} == {"stdout"}


def test_warnings_of_python_become_records() -> None:
    (line,) = lines("import warnings; warnings.warn('careful', stacklevel=1)")
    assert line["level"] == "warning"
    assert "careful" in line["message"]


def test_colours_and_empty_lines_are_left_out() -> None:
    said = lines("logging.info('\\x1b[34m\\x1b[1mtrain: \\x1b[0mdone\\n'); logging.info(''); logging.info('\\n')")
    assert [line["message"] for line in said] == ["train: done"]


def test_progress_bars_find_what_they_look_for_in_stdout() -> None:
    said = lines("import sys; sys.stdout.progress(1, 'frame'); sys.stdout.flush(); print(sys.stdout.isatty())")
    assert [line["message"] for line in said] == ["False"]


def test_auto_is_json_where_nobody_reads_along() -> None:
    (line,) = lines("logging.warning('hello')", "auto")
    assert line["message"] == "hello"


def test_text_is_for_people() -> None:
    done = run("logging.warning('hello'); print('printed')", "text")
    assert done.stdout.splitlines()[0].endswith("WARNING hello")
    assert done.stdout.splitlines()[1] == "printed"


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_file_name_that_is_no_text_does_not_swallow_its_line(log_format: str) -> None:
    done = run("logging.error('image \\udcff.jpg is broken')", log_format)
    assert done.stderr == ""
    assert "jpg is broken" in done.stdout


def test_chatty_libraries_are_heard_from_warnings_up() -> None:
    said = lines(
        "for name in ('httpx', 'botocore', 'mlflow'):\n"
        "    logging.getLogger(name).info('chat')\n    logging.getLogger(name).warning('trouble')"
    )
    assert [line["message"] for line in said] == ["trouble"] * 3
