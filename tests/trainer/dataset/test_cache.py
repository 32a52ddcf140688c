"""The cache under several processes: waiting, kills, and removal of what nobody uses."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from trainer.contract.tasks import TaskType
from trainer.dataset.cache import Cache, Lock
from trainer.dataset.fetching import fetch
from trainer.dataset.layout import Description
from trainer.dataset.manifest import Header
from trainer.dataset.packing import MemoryIndex, pack
from trainer.store import LocalStoreSettings, ObjectStore, open_store

REPOSITORY = Path(__file__).parents[3]
DATASET = "0b1c"
PLENTY = 10**12

# A job: fetches, says what it sees, and holds the dataset until its input ends. The store waits before each read for
# as long as the file `slow` is there.
JOB = """
import sys, time
from pathlib import Path
from trainer.dataset.fetching import fetch
from trainer.store import LocalStoreSettings
from trainer.store_local import LocalStore

root, sha256 = Path(sys.argv[1]), sys.argv[2]

class SlowStore(LocalStore):
    def _reader(self, key, start, end):
        print("asks for", key, flush=True)
        while key.endswith(".tar") and (root / "slow").exists():
            time.sleep(0.02)
        return super()._reader(key, start, end)

def progress(done, total):
    print("progress", done, total, flush=True)

store = SlowStore(LocalStoreSettings(root / "store"))
with fetch(store, "0b1c", sha256, root / "cache", max_bytes=10**12, progress=progress) as dataset:
    print("has", dataset.folder, flush=True)
    sys.stdin.read()
print("ended", flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(LocalStoreSettings(tmp_path / "store"))


@pytest.fixture
def versions(store: ObjectStore, tmp_path: Path) -> list[Header]:
    """Four versions of 100 kB with nothing in common."""
    made, index = [], MemoryIndex()
    for number in range(4):
        folder = tmp_path / f"dataset-{number}" / "images" / "train"
        folder.mkdir(parents=True)
        for each in range(10):
            (folder / f"{each}.jpg").write_bytes(os.urandom(10_000))
        description = Description(TaskType.IMAGE_CLASSIFICATION, ("a",))
        made.append(pack(folder.parents[1], description, ok=True, store=store, dataset_id=DATASET, index=index))
    return made


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Callable[[str], "Popen[str]"]]:
    """Starts a job in a process of its own."""
    jobs: list[Popen[str]] = []

    def start(sha256: str) -> "Popen[str]":
        jobs.append(
            Popen(
                [sys.executable, "-c", JOB, str(tmp_path), sha256],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return jobs[-1]

    yield start
    for each in jobs:
        each.kill()
        each.communicate()


def until(job: "Popen[str]", beginning: str) -> list[str]:
    """What the job says up to the first line that begins so."""
    assert job.stdout is not None
    said: list[str] = []
    for line in job.stdout:
        said.append(line.rstrip())
        if line.startswith(beginning):
            return said
    raise AssertionError(f"The job ended without saying {beginning!r}: {said}")


def end(job: "Popen[str]") -> list[str]:
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 0
    return output.splitlines()


def cached(root: Path) -> set[str]:
    return {path.name for path in (root / "datasets").iterdir() if path.is_dir()}


def get(store: ObjectStore, version: Header, root: Path, max_bytes: int = PLENTY) -> None:
    fetch(store, DATASET, version.sha256, root, max_bytes=max_bytes).close()


class TestTwoJobsAtOnce:
    def test_the_second_waits_shows_progress_and_asks_the_store_for_nothing(
        self, job: Callable[[str], "Popen[str]"], versions: list[Header], tmp_path: Path
    ) -> None:
        (tmp_path / "slow").touch()
        first = job(versions[0].sha256)
        until(first, "progress")
        second = job(versions[0].sha256)
        assert until(second, "progress")[-1] == f"progress 0 {versions[0].size}"
        (tmp_path / "slow").unlink()
        until(first, "has")
        said = until(second, "has")
        assert not [line for line in said if line.startswith("asks")]
        assert end(first) == end(second) == ["ended"]
        assert cached(tmp_path / "cache") == {versions[0].sha256}

    def test_the_second_takes_over_where_the_first_is_killed(
        self, job: Callable[[str], "Popen[str]"], versions: list[Header], tmp_path: Path
    ) -> None:
        (tmp_path / "slow").touch()
        first = job(versions[0].sha256)
        until(first, "progress")
        second = job(versions[0].sha256)
        until(second, "progress")
        first.send_signal(signal.SIGKILL)
        (tmp_path / "slow").unlink()
        assert [line for line in until(second, "has") if line.startswith("asks")]
        folder = tmp_path / "cache" / "datasets" / versions[0].sha256
        assert len(list((folder / "images/train").iterdir())) == 10

    def test_many_that_start_together_fetch_once(
        self, job: Callable[[str], "Popen[str]"], versions: list[Header], tmp_path: Path
    ) -> None:
        jobs = [job(versions[0].sha256) for _ in range(4)]
        said = [until(each, "has") for each in jobs]
        assert sum(1 for lines in said if any(line.startswith("asks") for line in lines)) == 1


class TestWhatAKillLeaves:
    def test_it_does_not_count_and_is_swept_by_the_next_fetch(
        self, job: Callable[[str], "Popen[str]"], store: ObjectStore, versions: list[Header], tmp_path: Path
    ) -> None:
        (tmp_path / "slow").touch()
        killed = job(versions[0].sha256)
        until(killed, "progress")
        (half,) = cached(tmp_path / "cache")
        assert half.startswith(".fetching-")
        killed.send_signal(signal.SIGKILL)
        killed.wait(timeout=30)
        get(store, versions[1], tmp_path / "cache")
        assert cached(tmp_path / "cache") == {versions[1].sha256}
        get(store, versions[0], tmp_path / "cache")
        assert cached(tmp_path / "cache") == {versions[0].sha256, versions[1].sha256}

    def test_what_is_being_fetched_is_not_swept(
        self, job: Callable[[str], "Popen[str]"], store: ObjectStore, versions: list[Header], tmp_path: Path
    ) -> None:
        (tmp_path / "slow").touch()
        fetching = job(versions[0].sha256)
        until(fetching, "progress")
        get(store, versions[1], tmp_path / "cache", max_bytes=1)
        (tmp_path / "slow").unlink()
        until(fetching, "has")
        assert end(fetching) == ["ended"]

    def test_a_removal_that_was_cut_off_is_finished(
        self, store: ObjectStore, versions: list[Header], tmp_path: Path
    ) -> None:
        half = tmp_path / "cache" / "datasets" / ".removing-1234"
        (half / "images").mkdir(parents=True)
        unknown = tmp_path / "cache" / "datasets" / ("9" * 64)
        (unknown / "images").mkdir(parents=True)
        get(store, versions[0], tmp_path / "cache")
        assert cached(tmp_path / "cache") == {versions[0].sha256}


class TestRemoval:
    def test_what_was_not_used_longest_goes_first(
        self, store: ObjectStore, versions: list[Header], tmp_path: Path
    ) -> None:
        root, room = tmp_path / "cache", 3 * versions[0].size
        for version in versions[:3]:
            get(store, version, root, room)
            time.sleep(0.01)
        get(store, versions[0], root, room)
        get(store, versions[3], root, room)
        assert cached(root) == {versions[0].sha256, versions[2].sha256, versions[3].sha256}
        assert not [path for path in (root / "datasets").iterdir() if path.name.startswith(versions[1].sha256)]

    def test_what_a_job_uses_stays(
        self, job: Callable[[str], "Popen[str]"], store: ObjectStore, versions: list[Header], tmp_path: Path
    ) -> None:
        training = job(versions[0].sha256)
        until(training, "has")
        get(store, versions[1], tmp_path / "cache")
        get(store, versions[2], tmp_path / "cache", max_bytes=1)
        assert cached(tmp_path / "cache") == {versions[0].sha256, versions[2].sha256}
        training.send_signal(signal.SIGKILL)
        training.wait(timeout=30)
        get(store, versions[3], tmp_path / "cache", max_bytes=1)
        assert cached(tmp_path / "cache") == {versions[3].sha256}

    def test_a_removed_version_is_fetched_again(
        self, store: ObjectStore, versions: list[Header], tmp_path: Path
    ) -> None:
        for version in (versions[0], versions[1], versions[0]):
            get(store, version, tmp_path / "cache", max_bytes=1)
        assert cached(tmp_path / "cache") == {versions[0].sha256}


class TestLocks:
    def test_a_lock_is_had_by_one_or_shared_by_many(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        with Lock.wait(path, lambda: None):
            assert Lock.take(path) is None
            assert Lock.take(path, shared=True) is None
        one, other = Lock.take(path, shared=True), Lock.take(path, shared=True)
        assert one is not None
        assert other is not None
        assert Lock.take(path) is None
        one.release()
        other.release()
        assert Lock.take(path) is not None

    def test_a_lock_whose_file_is_removed_while_somebody_waits_is_not_given_twice(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        held = Lock.take(path)
        assert held is not None
        path.unlink()
        fresh = Lock.take(path)
        assert fresh is not None
        held.release()
        assert Lock.take(path) is None

    def test_who_waits_may_give_up(self, tmp_path: Path) -> None:
        class StoppedError(Exception):
            pass

        def stop() -> None:
            raise StoppedError

        with Lock.wait(tmp_path / "lock", stop), pytest.raises(StoppedError):
            Lock.wait(tmp_path / "lock", stop)

    def test_the_time_of_the_last_use_is_that_of_its_end(
        self, store: ObjectStore, versions: list[Header], tmp_path: Path
    ) -> None:
        dataset = fetch(store, DATASET, versions[0].sha256, tmp_path, max_bytes=PLENTY)
        path = Cache(tmp_path, PLENTY).use_lock(versions[0].sha256)
        os.utime(path, (0, 0))
        dataset.close()
        assert path.stat().st_mtime > 0
