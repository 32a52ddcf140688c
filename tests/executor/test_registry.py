"""Which executor the settings give, and what the system checks say about them."""

import sys

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from apps.executor import checks
from apps.executor.fake import FakeExecutor
from apps.executor.registry import get_executor, reset_executor
from apps.executor.subprocess import SubprocessExecutor


@pytest.fixture(autouse=True)
def forgotten():
    reset_executor()
    yield
    reset_executor()


def ids(messages):
    return [message.id for message in messages]


def test_subprocess_is_made_from_the_settings(tmp_path):
    with override_settings(
        EXECUTOR="subprocess",
        ATTEMPTS_ROOT=tmp_path / "attempts",
        TRAINER_COMMAND=["python3", "-m", "other"],
        TRAINER_DEVICES=["3"],
        CPU_SLOTS=2,
        BASE_DIR=tmp_path,
    ):
        executor = get_executor()
    assert isinstance(executor, SubprocessExecutor)
    assert executor.root == tmp_path / "attempts"
    assert executor.command == ("python3", "-m", "other")
    assert executor.pythonpath == tmp_path
    assert [slot.name for slot in executor.slots()] == ["gpu:3"]


def test_without_command_and_devices_this_python_trains_on_what_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with override_settings(
        EXECUTOR="subprocess",
        ATTEMPTS_ROOT=tmp_path,
        TRAINER_COMMAND=None,
        TRAINER_DEVICES=[],
        CPU_SLOTS=2,
        BASE_DIR=tmp_path,
    ):
        executor = get_executor()
    assert isinstance(executor, SubprocessExecutor)
    assert executor.command == (sys.executable, "-m", "trainer")
    assert len(executor.slots()) == 2


def test_a_dotted_path_names_any_other_executor_and_is_called_once():
    with override_settings(EXECUTOR="apps.executor.fake.FakeExecutor"):
        assert isinstance(get_executor(), FakeExecutor)
        assert get_executor() is get_executor()
        first = get_executor()
        reset_executor()
        assert get_executor() is not first


@pytest.mark.parametrize("name", ["subproces", "apps.executor.nowhere.Executor", "apps.executor.fake.ONE_CPU"])
def test_an_unknown_executor_is_refused_and_the_check_says_what_to_write(name):
    with override_settings(EXECUTOR=name):
        with pytest.raises(ImproperlyConfigured, match=name):
            get_executor()
        (message,) = checks.check_executor(None)
    assert message.id == "executor.E001"
    assert message.hint is not None
    assert "'subprocess'" in message.hint


def test_a_callable_that_makes_something_else_is_refused():
    with (
        override_settings(EXECUTOR="builtins.dict"),
        pytest.raises(ImproperlyConfigured, match="no Executor"),
    ):
        get_executor()


def test_a_root_that_can_be_made_passes(tmp_path):
    with override_settings(EXECUTOR="subprocess", ATTEMPTS_ROOT=tmp_path / "not" / "yet"):
        assert checks.check_attempts_root(None) == []
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with override_settings(EXECUTOR="subprocess", ATTEMPTS_ROOT=tmp_path / "file" / "attempts"):
        assert ids(checks.check_attempts_root(None)) == ["executor.E002"]
    with override_settings(EXECUTOR="subprocess", ATTEMPTS_ROOT=None):
        assert ids(checks.check_attempts_root(None)) == ["executor.E002"]


def test_a_trainer_program_that_is_missing_is_an_error():
    with override_settings(EXECUTOR="subprocess", TRAINER_COMMAND=["no-such-program"]):
        assert ids(checks.check_trainer_command(None)) == ["executor.E003"]
    with override_settings(EXECUTOR="subprocess", TRAINER_COMMAND=[sys.executable, "-m", "trainer"]):
        assert checks.check_trainer_command(None) == []


def test_another_executor_needs_neither_root_nor_command():
    with override_settings(
        EXECUTOR="apps.executor.fake.FakeExecutor", ATTEMPTS_ROOT=None, TRAINER_COMMAND=["no-such-program"]
    ):
        assert checks.check_executor(None) == []
        assert checks.check_attempts_root(None) == []
        assert checks.check_trainer_command(None) == []
        assert checks.check_platform(None) == []
