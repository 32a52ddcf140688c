"""Launching and observing real processes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from apps.executor import records, supervisor
from apps.executor.base import Alive, Dead, Slot, Unknown
from apps.executor.errors import LaunchError
from apps.executor.processes import identify
from apps.executor.subprocess import SubprocessExecutor

ROOT = Path(__file__).resolve().parents[2]
SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
DUMPS_ENVIRONMENT = "import json, os; print(json.dumps(dict(os.environ)))"


def environment_seen(executor, spec, until_dead):
    reference = executor.launch(spec).reference
    assert until_dead(executor, reference).exit_code == 0
    return json.loads(executor.logs(reference).data)


def test_stdout_and_stderr_land_in_the_log(executor_of, make_spec, until_dead):
    executor = executor_of("import sys; print('said'); print('cried', file=sys.stderr)")
    launched = executor.launch(make_spec())
    until_dead(executor, launched.reference)
    assert executor.logs(launched.reference).data == b"said\ncried\n"
    assert Path(launched.log_location).read_bytes() == b"said\ncried\n"


def test_the_log_grows_while_the_trainer_runs(executor_of, make_spec, eventually):
    executor = executor_of("import time; print('up'); time.sleep(600)")
    reference = executor.launch(make_spec()).reference
    eventually(lambda: executor.logs(reference).data == b"up\n")
    assert isinstance(executor.observe(reference), Alive)


def test_the_signal_that_ended_the_trainer_is_recorded(executor_of, make_spec, until_dead):
    executor = executor_of("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    dead = until_dead(executor, executor.launch(make_spec()).reference)
    assert (dead.exit_code, dead.signal) == (None, signal.SIGSEGV)
    assert "SIGSEGV" in dead.evidence


def test_launching_one_name_from_many_threads_starts_one_trainer(executor_of, make_spec, eventually, tmp_path):
    starts = tmp_path / "starts"
    executor = executor_of(f"import time; open({str(starts)!r}, 'a').write('x'); time.sleep(600)")
    with ThreadPoolExecutor(4) as pool:
        launched = list(pool.map(lambda _: executor.launch(make_spec()), range(4)))
    assert len({each.reference for each in launched}) == 1
    eventually(starts.exists)
    executor.launch(make_spec())
    assert starts.read_text() == "x"


def test_a_trainer_survives_the_killing_of_whoever_launched_it(executor_of, make_spec, eventually, tmp_path):
    executor = executor_of(SLEEPER)
    launcher = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from apps.executor.base import LaunchSpec
        from apps.executor.subprocess import SubprocessExecutor
        executor = SubprocessExecutor(Path({str(executor.root)!r}), {executor.command!r}, devices=[])
        executor.launch(LaunchSpec("job-1-attempt-1", {{}}, frozenset(), (), 30.0))
        print("launched", flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", launcher], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"launched\n"
        os.killpg(process.pid, signal.SIGKILL)
    reference = executor.find("job-1-attempt-1")
    assert reference is not None
    eventually(lambda: executor.logs(reference).data == b"up\n")
    assert isinstance(executor.observe(reference), Alive)


def test_nobody_the_executor_started_stays_a_zombie(executor_of, make_spec, until_dead, eventually, process_record):
    executor = executor_of("import subprocess; subprocess.Popen(['true'])")
    until_dead(executor, executor.launch(make_spec()).reference)
    # Other tests' servers may be children too, and alive.
    assert [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE] == []
    assert not Path("/proc", str(process_record()["trainer"]["pid"])).exists()


def test_a_missing_program_is_a_launch_error_that_retrying_cannot_help(tmp_path, make_spec):
    executor = SubprocessExecutor(tmp_path, ["no-such-trainer"], devices=[])
    with pytest.raises(LaunchError, match="no-such-trainer") as caught:
        executor.launch(make_spec())
    assert not caught.value.retryable


def test_a_root_that_cannot_be_written_to_is_a_launch_error_worth_retrying(tmp_path, make_spec):
    (tmp_path / "file").write_text("no folder")
    executor = SubprocessExecutor(tmp_path / "file", [sys.executable], devices=[])
    with pytest.raises(LaunchError) as caught:
        executor.launch(make_spec())
    assert caught.value.retryable


def test_a_supervisor_that_cannot_start_is_quoted(tmp_path, make_spec):
    executor = SubprocessExecutor(tmp_path, [sys.executable], devices=[], pythonpath=tmp_path)
    with pytest.raises(LaunchError, match="No module named") as caught:
        executor.launch(make_spec())
    assert caught.value.retryable
    assert isinstance(executor.observe("job-1-attempt-1"), Unknown)


def test_an_attempt_whose_launch_failed_can_be_launched_again(tmp_path, executor_of, make_spec, until_dead):
    executor = executor_of("print('second time')")
    broken = SubprocessExecutor(executor.root, executor.command, devices=[], pythonpath=tmp_path)
    with pytest.raises(LaunchError):
        broken.launch(make_spec())
    assert until_dead(executor, executor.launch(make_spec()).reference).exit_code == 0


def test_a_malformed_variable_is_refused_without_being_quoted(executor_of, make_spec):
    executor = executor_of(SLEEPER)
    with pytest.raises(LaunchError) as caught:
        executor.launch(make_spec(environment={"TOKEN": "hush\0hush"}))
    assert not caught.value.retryable
    assert "hush" not in str(caught.value)


def test_the_trainer_works_in_a_private_folder_with_an_empty_stdin(executor_of, make_spec, until_dead):
    executor = executor_of("import os, sys; print(os.getcwd(), repr(sys.stdin.read()))")
    reference = executor.launch(make_spec()).reference
    until_dead(executor, reference)
    folder = executor.root / "job-1-attempt-1"
    assert executor.logs(reference).data.decode() == f"{folder / 'work'} ''\n"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_trainer_inherits_no_descriptor_and_no_ignored_signal(executor_of, make_spec, until_dead):
    executor = executor_of("""
        import os
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        print(len(os.listdir("/proc/self/fd")), int(status["SigBlk"], 16))
        # Python itself ignores SIGPIPE (13) and SIGXFSZ (25).
        print([n for n in range(1, 32) if int(status["SigIgn"], 16) >> (n - 1) & 1])
    """)
    reference = executor.launch(make_spec()).reference
    until_dead(executor, reference)
    # Standard input, output and error, and the one that lists the folder.
    assert executor.logs(reference).data == b"4 0\n[13, 25]\n"


def test_secrets_are_in_no_command_line_and_in_no_file(executor_of, make_spec, eventually):
    executor = executor_of(SLEEPER)
    spec = make_spec(
        environment={"INTERNAL_AUTH_TOKEN": "s3cr3t-t0ken"}, secret_names=frozenset({"INTERNAL_AUTH_TOKEN"})
    )
    reference = executor.launch(spec).reference
    eventually(lambda: executor.logs(reference).size)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert b"s3cr3t-t0ken" not in path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
    files = [path for path in executor.root.rglob("*") if path.is_file()]
    assert len(files) >= 4
    assert all(b"s3cr3t-t0ken" not in path.read_bytes() for path in files)
    assert all(path.stat().st_mode & 0o077 == 0 for path in files if path.name != records.SUPERVISOR_LOG)
    assert "s3cr3t-t0ken" not in repr(spec)


def test_the_platforms_secrets_stay_with_the_platform(executor_of, make_spec, until_dead, monkeypatch):
    for name in ("DATABASE_URL", "DJANGO_SECRET_KEY", "INTERNAL_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-the-platform")
    monkeypatch.setenv("LC_TIME", "C")
    executor = executor_of(DUMPS_ENVIRONMENT)
    seen = environment_seen(executor, make_spec(environment={"EPOCHS": "3"}), until_dead)
    assert "of-the-platform" not in seen.values()
    assert seen["EPOCHS"] == "3"
    assert seen["LC_TIME"] == "C"
    assert seen["PATH"] == os.environ["PATH"]
    assert seen["PYTHONPATH"] == str(ROOT)


@pytest.mark.parametrize(("devices", "expected"), [((), ""), (("1",), "1"), (("0", "GPU-5a"), "0,GPU-5a")], ids=str)
def test_the_trainer_sees_exactly_the_devices_it_leases(
    executor_of, make_spec, until_dead, devices, expected, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    executor = executor_of(DUMPS_ENVIRONMENT)
    assert environment_seen(executor, make_spec(devices=devices), until_dead)["CUDA_VISIBLE_DEVICES"] == expected


def test_slots_are_the_gpus_or_else_the_cpu(tmp_path):
    gpus = SubprocessExecutor(tmp_path, ["x"], devices=["0", "GPU-5a"])
    assert gpus.slots() == [Slot("gpu:0", ("0",), "gpu"), Slot("gpu:GPU-5a", ("GPU-5a",), "gpu")]
    cpus = SubprocessExecutor(tmp_path, ["x"], devices=[], cpu_slots=2)
    assert cpus.slots() == [Slot("cpu:0", (), "cpu"), Slot("cpu:1", (), "cpu")]


def test_slots_are_looked_for_where_no_devices_are_given(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert [slot.name for slot in SubprocessExecutor(tmp_path, ["x"]).slots()] == ["gpu:2", "gpu:3"]


class TestObservingWhatAMachineLeftBehind:
    """Folders written by hand: no supervisor ever ran in them."""

    @pytest.fixture
    def executor(self, tmp_path):
        return SubprocessExecutor(tmp_path, [sys.executable], devices=[])

    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "job-1-attempt-1"
        folder.mkdir()
        return folder

    @pytest.fixture
    def stranger(self):
        with subprocess.Popen(["sleep", "600"]) as process:
            yield process
            process.kill()

    def write(self, folder, identity):
        started = "2026-01-01T00:00:00+00:00"
        record = {"supervisor": identity, "trainer": identity, "started_at": started, "node": "here"}
        (folder / "process.json").write_text(json.dumps(record))

    def test_a_fresh_folder_is_unknown_and_an_old_one_was_never_started(self, executor, folder):
        assert isinstance(executor.observe(folder.name), Unknown)
        long_ago = time.time() - 60
        os.utime(folder, (long_ago, long_ago))
        dead = executor.observe(folder.name)
        assert isinstance(dead, Dead)
        assert "never started" in dead.evidence

    def test_a_process_that_inherited_the_pid_neither_reads_as_alive_nor_is_stopped(self, executor, folder, stranger):
        self.write(folder, {"pid": stranger.pid, "started": "another-boot/1"})
        dead = executor.observe(folder.name)
        assert isinstance(dead, Dead)
        assert (dead.exit_code, dead.signal, dead.ended_at) == (None, None, None)
        executor.stop(folder.name)
        executor.stop(folder.name, force=True)
        assert stranger.poll() is None

    def test_a_trainer_that_outlived_its_supervisor_is_alive_until_it_ends(self, executor, folder, stranger):
        self.write(folder, identify(stranger.pid))
        observation = executor.observe(folder.name)
        assert isinstance(observation, Alive)
        assert "supervisor is gone" in observation.evidence

    def test_a_zombie_is_dead(self, executor, folder, stranger, eventually):
        self.write(folder, identify(stranger.pid))
        os.kill(stranger.pid, signal.SIGKILL)
        eventually(lambda: isinstance(executor.observe(folder.name), Dead))
        assert Path("/proc", str(stranger.pid)).exists()

    def test_a_malformed_record_is_unknown(self, executor, folder):
        (folder / "process.json").write_text("{")
        assert isinstance(executor.observe(folder.name), Unknown)
        (folder / "process.json").unlink()
        (folder / "exit.json").write_text("{}")
        assert isinstance(executor.observe(folder.name), Unknown)

    @pytest.mark.parametrize(
        ("number", "forced", "kills", "expected"),
        [(9, False, 1, True), (9, True, 1, False), (9, False, 0, False), (9, False, None, False)],
    )
    def test_want_of_memory_is_named_only_where_it_ended_the_trainer(
        self, executor, folder, number, forced, kills, expected
    ):
        record = {
            "exit_code": None,
            "signal": number,
            "ended_at": "2026-01-01T00:00:00+00:00",
            "stop_requested": forced,
            "forced": forced,
            "oom_kills": kills,
        }
        (folder / "exit.json").write_text(json.dumps(record))
        dead = executor.observe(folder.name)
        assert isinstance(dead, Dead)
        assert dead.oom_killed is expected
        assert ("want of memory" in dead.evidence) is bool(kills)

    @pytest.mark.parametrize("name", ["process.json", "exit.json"])
    def test_a_supervisor_leaves_a_used_folder_alone(self, executor, folder, name):
        (folder / name).write_text('{"exit_code": 0}')
        assert self.supervise(folder) == supervisor.USED
        assert not (folder / "started").exists()

    def test_a_second_supervisor_starts_nothing(self, executor, folder):
        lock = records.take_lock(str(folder))
        assert lock is not None
        assert self.supervise(folder) == supervisor.BUSY
        assert not (folder / "started").exists()
        os.close(lock)

    def test_looking_at_the_lock_does_not_keep_a_supervisor_out(self, executor, folder):
        assert not records.is_locked(str(folder))
        lock = records.take_lock(str(folder))
        assert lock is not None
        assert records.is_locked(str(folder))
        os.close(lock)
        assert not records.is_locked(str(folder))

    def supervise(self, folder):
        command = [sys.executable, "-m", supervisor.__name__, str(folder), "1", "--", "touch", "../started"]
        return subprocess.run(command, cwd=ROOT, check=False).returncode


def test_a_supervisor_that_hangs_is_killed_and_may_be_launched_again(
    tmp_path, executor_of, make_spec, until_dead, monkeypatch
):
    # A package in place of the supervisor that never answers.
    package = tmp_path / "hanging" / "apps" / "executor"
    package.mkdir(parents=True)
    (package / "supervisor.py").write_text("import time\nprint('thinking', flush=True)\ntime.sleep(600)\n")
    monkeypatch.setattr("apps.executor.subprocess._LAUNCH_SECONDS", 1.0)
    executor = executor_of("print('done')")
    hanging = SubprocessExecutor(executor.root, executor.command, devices=[], pythonpath=tmp_path / "hanging")
    with pytest.raises(LaunchError, match="did not answer") as caught:
        hanging.launch(make_spec())
    assert caught.value.retryable
    monkeypatch.undo()
    assert until_dead(executor, executor.launch(make_spec()).reference).exit_code == 0
