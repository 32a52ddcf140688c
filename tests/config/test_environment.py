"""The platform's own settings: a bad value is an error that says what to write, and .env.example tells the truth."""

import json
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from config.documentation import pages
from config.environment import Environment
from config.secret_files import kept_secret

REPOSITORY = Path(__file__).parents[2]


def manage(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`manage.py` with these variables and otherwise only what a program needs."""
    machine = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=REPOSITORY,
        env={**machine, "DATA_DIR": str(folder), **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def python(folder: Path, code: str, **environ: str) -> str:
    """What `code` prints once the settings are read."""
    done = manage(folder, "shell", "--no-imports", "-c", code, **environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_any_variable_all_is_well(tmp_path: Path) -> None:
    done = manage(tmp_path, "check")
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        (
            {
                "CPU_SLOTS": "abc",
                "STOP_GRACE_SECONDS": "-1",
                "LINGER_SECONDS": "long",
                "DEBUG": "maybe",
                "BEHIND_HTTPS_PROXY": "2",
                "STORAGE_TYPE": "ftp",
                "LANGUAGE_CODE": "fr",
                "DATABASE_URL": "nonsense",
                "CELERY_BROKER_URL": "x",
                "PLATFORM_URL": "backend:8000",
                "MLFLOW_UI_URL": "mlflow",
            },
            [
                "CPU_SLOTS is 'abc'; write a whole number, such as 1.",
                "STOP_GRACE_SECONDS is -1; write 0 or more.",
                "LINGER_SECONDS is 'long'; write a whole number, such as 300.",
                "DEBUG is 'maybe'; write true or false.",
                "BEHIND_HTTPS_PROXY is '2'; write true or false.",
                "STORAGE_TYPE is 'ftp'; write one of local, minio, r2.",
                "LANGUAGE_CODE is 'fr'; write one of en, ko.",
                "DATABASE_URL cannot be read",
                "write something like postgresql://",
                "CELERY_BROKER_URL names no broker that is supported; write redis://HOST:6379/0",
                "PLATFORM_URL is not an address; write something like http://",
                "MLFLOW_UI_URL is not an address",
            ],
        ),
        (
            {"CPU_SLOTS": "0", "DATABASE_URL": "ftp://host/db", "STORAGE_TYPE": "r2", "R2_BUCKET": "b"},
            [
                "CPU_SLOTS is 0; write 1 or more.",
                "DATABASE_URL cannot be read",
                "R2_ENDPOINT is empty and STORAGE_TYPE is r2; set it.",
                "R2_ACCESS_KEY_ID is empty",
                "R2_SECRET_ACCESS_KEY is empty",
            ],
        ),
        (
            {"CPU_SLOTS": "1.5", "STORAGE_TYPE": "minio"},
            ["CPU_SLOTS is '1.5'; write a whole number", "MINIO_ACCESS_KEY is empty", "MINIO_SECRET_KEY is empty"],
        ),
        ({"TIME_ZONE": "Mars/Base"}, ["TIME_ZONE", "Asia/Seoul"]),
        ({"EXECUTOR": "subproces"}, ["subproces", "'subprocess'"]),
    ],
    ids=["many", "r2", "minio", "time zone", "executor"],
)
def test_bad_values_are_errors_told_at_once_that_say_what_to_write(
    environ: dict[str, str], told: list[str], tmp_path: Path
) -> None:
    done = manage(tmp_path, "check", **environ)
    assert done.returncode == 1
    assert "SystemCheckError" in done.stderr
    assert "Traceback" not in done.stderr
    assert [text for text in told if text not in done.stderr] == []


def test_the_password_of_an_address_that_cannot_be_read_is_not_repeated(tmp_path: Path) -> None:
    done = manage(tmp_path, "check", DATABASE_URL="postgresql://me:hush/hush@host:5432/db")
    assert "hush" not in done.stderr + done.stdout


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_counts_as_unset(empty: str, tmp_path: Path) -> None:
    names = [name for name in settings.ENV.variables if name != "DATA_DIR"]
    done = manage(tmp_path, "check", **dict.fromkeys(names, empty))
    assert done.returncode == 0, done.stderr


def test_a_secret_is_taken_as_it_stands_whatever_it_holds(tmp_path: Path) -> None:
    secrets = ["$ecret", "a$b", "#x", "a b", "'x'", '"', "\\n", "%s", "ä=ö"]
    names = [name for name in settings.STORE_ENVIRONMENT if name.startswith(("MINIO", "R2"))][: len(secrets)]
    names += ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"]
    given = dict(zip(names, secrets, strict=False))
    assert len(given) == len(secrets)
    code = (
        "import json; from django.conf import settings as s; print(json.dumps("
        "{**s.STORE_ENVIRONMENT, 'MLFLOW_TRACKING_USERNAME': s.MLFLOW_TRACKING_USERNAME,"
        " 'MLFLOW_TRACKING_PASSWORD': s.MLFLOW_TRACKING_PASSWORD}))"
    )
    read = json.loads(python(tmp_path, code, **given))
    assert {name: read[name] for name in given} == given


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("1", True), ("YES", True), ("on", True), ("false", False), ("0", False), ("No", False)],
)
def test_flags_can_be_written_in_several_ways(text: str, value: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_FLAG", text)
    environment = Environment()
    assert environment.flag("SOME_FLAG", not value, about="x") is value
    assert environment.problems == []


def test_a_bad_value_falls_back_to_the_default_so_that_checks_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("A_NUMBER", "A_FLAG", "A_CHOICE", "A_URL"):
        monkeypatch.setenv(name, "?!")

    def parse(text: str) -> str:
        if text == "?!":
            raise KeyError(text)
        return text.upper()

    environment = Environment()
    assert environment.integer("A_NUMBER", 3, about="x") == 3
    assert environment.flag("A_FLAG", True, about="x") is True
    assert environment.choice("A_CHOICE", "a", ("a", "b"), about="x") == "a"
    assert environment.url("A_URL", "default", parse, about="x", example="y") == "DEFAULT"
    assert [problem.split()[0] for problem in environment.problems] == ["A_NUMBER", "A_FLAG", "A_CHOICE", "A_URL"]


def test_items_are_separated_by_commas_and_empty_ones_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_ITEMS", " a, ,b,")
    assert Environment().items("SOME_ITEMS", ["x"], about="x") == ["a", "b"]


def test_variables_of_a_file_count_less_than_those_already_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "env").write_text('SET_BEFORE=file\n# a remark\nONLY_IN_FILE="from the file"\n')
    monkeypatch.setenv("SET_BEFORE", "already")
    monkeypatch.setenv("ONLY_IN_FILE", "")
    monkeypatch.delenv("ONLY_IN_FILE")
    environment = Environment()
    environment.load(str(tmp_path / "env"))
    assert environment.text("SET_BEFORE", about="x") == "already"
    assert environment.text("ONLY_IN_FILE", about="x") == "from the file"
    os.environ.pop("ONLY_IN_FILE", None)


# --- .env.example -------------------------------------------------------------------------------------------------


def example() -> dict[str, str]:
    lines = (REPOSITORY / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.removeprefix("#").split("=", 1) for line in lines if re.match(r"#?[A-Z0-9_]+=", line))


def test_the_example_lists_exactly_the_variables_that_are_read_with_their_defaults() -> None:
    assert example() == {name: variable.default for name, variable in settings.ENV.variables.items()}


def test_every_variable_is_explained_and_no_default_is_of_one_machine() -> None:
    for variable in settings.ENV.variables.values():
        assert len(variable.about) > 5, variable.name
        assert str(REPOSITORY) not in variable.default + variable.about
        assert str(settings.DATA_DIR) not in variable.default + variable.about


def test_the_example_as_it_stands_and_with_every_line_switched_on_passes_the_checks(tmp_path: Path) -> None:
    """What it shows are values that can be written; secrets and addresses of the machine are left empty."""
    shown = {name: value for name, value in example().items() if name != "DATA_DIR"}
    done = manage(tmp_path, "check", **shown)
    assert done.returncode == 0, done.stderr


def test_generated_pages_are_up_to_date() -> None:
    stale = [path for path, text in pages().items() if (REPOSITORY / path).read_text(encoding="utf-8") != text]
    assert stale == [], "run `make docs`"


def test_nothing_reads_the_environment_beside_the_settings() -> None:
    """So that the example can be complete."""
    readers = set()
    for folder in ("apps", "platform"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            if re.search(r"os\.(getenv|environ\[|environ\.get)", path.read_text(encoding="utf-8")):
                readers.add(str(path.relative_to(REPOSITORY)))
    assert readers - {"platform/config/environment.py"} == set()


# --- secrets that are made here -----------------------------------------------------------------------------------


def test_a_secret_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    secret = kept_secret(folder, "KEY")
    assert len(secret) >= 40
    assert kept_secret(folder, "KEY") == secret
    assert kept_secret(folder, "OTHER") != secret
    assert stat.S_IMODE((folder / "KEY").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == ["KEY", "OTHER"]


def test_processes_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from config.secret_files import kept_secret; sys.stdin.read()\n"
        "print(kept_secret(Path(sys.argv[1]), 'KEY'))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "secrets")],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "platform"), "CELERY_BROKER_URL": "memory://"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    said = {process.stdout.read() for process in processes if process.stdout is not None}
    assert [process.wait(60) for process in processes] == [0] * 4
    assert len(said) == 1
    assert len((tmp_path / "secrets" / "KEY").read_text()) >= 40


def test_two_that_have_the_same_process_id_agree_on_one_secret(tmp_path: Path) -> None:
    """Containers on one volume do: in each the first process has the number 1. Threads stand for them here."""
    for attempt in range(30):
        folder, barrier, said = tmp_path / str(attempt), threading.Barrier(4), []

        def ask(folder: Path = folder, barrier: threading.Barrier = barrier, said: list[Any] = said) -> None:
            barrier.wait()
            try:
                said.append(kept_secret(folder, "KEY"))
            except OSError as error:
                said.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(said) == 4
        assert set(said) == {(folder / "KEY").read_text()}


def test_the_secrets_of_an_installation_outlive_a_restart_and_differ_between_two(tmp_path: Path) -> None:
    code = "from django.conf import settings as s; print(s.SECRET_KEY, s.INTERNAL_AUTH_TOKEN)"
    first, again = python(tmp_path / "one", code), python(tmp_path / "one", code)
    other = python(tmp_path / "two", code)
    assert first == again
    assert len({*first.split(), *other.split()}) == 4
    assert python(tmp_path / "one", code, INTERNAL_AUTH_TOKEN="given").split() == [first.split()[0], "given"]


# --- the house ----------------------------------------------------------------------------------------------------


def test_platform_is_a_folder_and_no_package() -> None:
    """A package of that name would stand in the way of Python's own module, and of `import uuid` with it."""
    assert (REPOSITORY / "platform").is_dir()
    assert [path.name for path in (REPOSITORY / "platform").iterdir() if path.suffix == ".py"] == []
    code = "import platform, uuid; print(platform.python_version())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == ".".join(map(str, sys.version_info[:3]))


def test_the_project_has_no_migration_left_to_make(tmp_path: Path) -> None:
    done = manage(tmp_path, "makemigrations", "--check", "--dry-run")
    assert done.returncode == 0, done.stdout
