"""Trainers made of a few lines of Python, really started, and never left behind."""

import json
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.executor.base import Dead, Executor, LaunchSpec
from apps.executor.subprocess import SubprocessExecutor

PATIENCE = 30.0


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Calls a function until its answer is true, and returns that answer."""

    def wait(ask: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (answer := ask()):
            assert time.monotonic() < deadline, "It did not happen."
            time.sleep(0.02)
        return answer

    return wait


@pytest.fixture
def make_spec() -> Callable[..., LaunchSpec]:
    """A spec for an attempt, with what the test cares about."""

    def make(name: str = "job-1-attempt-1", grace: float = PATIENCE, **fields: Any) -> LaunchSpec:
        environment = {"JOB_ID": "1", **fields.pop("environment", {})}
        return LaunchSpec(
            name,
            environment,
            fields.pop("secret_names", frozenset()),
            fields.pop("devices", ()),
            grace,
        )

    return make


@pytest.fixture
def executor_of(tmp_path: Path) -> Iterator[Callable[..., SubprocessExecutor]]:
    """Makes an executor whose trainer is the given source. Every attempt is killed after the test."""
    root = tmp_path / "attempts"
    made: list[SubprocessExecutor] = []

    def make(source: str, **options: Any) -> SubprocessExecutor:
        script = tmp_path / "trainer_script.py"
        script.write_text(textwrap.dedent(source))
        options.setdefault("devices", [])
        made.append(SubprocessExecutor(root, [sys.executable, "-S", str(script)], **options))
        return made[-1]

    yield make
    if not made:
        return
    names = [folder.name for folder in root.iterdir() if made[0].find(folder.name)] if root.exists() else []
    for name in names:
        made[0].stop(name, force=True)
    deadline = time.monotonic() + PATIENCE
    while any(not isinstance(made[0].observe(name), Dead) for name in names):
        assert time.monotonic() < deadline, "A trainer outlived its test."
        time.sleep(0.02)


@pytest.fixture
def until_dead(eventually: Callable[[Callable[[], Any]], Any]) -> Callable[[Executor, str], Dead]:
    """Waits for an attempt's end, and returns what was observed."""

    def wait(executor: Executor, reference: str) -> Dead:
        def look() -> Dead | None:
            observation = executor.observe(reference)
            return observation if isinstance(observation, Dead) else None

        dead: Dead = eventually(look)
        return dead

    return wait


@pytest.fixture
def process_record(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Reads an attempt's process.json."""

    def read(name: str = "job-1-attempt-1") -> dict[str, Any]:
        content: dict[str, Any] = json.loads((tmp_path / "attempts" / name / "process.json").read_text())
        return content

    return read
