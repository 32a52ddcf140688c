"""The platform's own rules once more, on the database that production uses: locks and constraints differ there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from servers.postgresql import run_postgresql

ROOT = Path(__file__).parents[2]
RULES = {
    "jobs": (
        "states",
        "transitions_race",
        "services",
        "scheduling",
        "reconciliation",
        "ingest",
        "callback",
        "retention",
    ),
    "storage": ("import", "imports_at_once", "versions", "migrations", "admin"),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("app", RULES)
def test_the_rules_hold_on_postgresql(app: str) -> None:
    files = [f"tests/{app}/test_{name}.py" for name in RULES[app]]
    with run_postgresql() as url:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": url},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
