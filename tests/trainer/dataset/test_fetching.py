"""Fetching: what was packed comes back, checked, shared, and in spite of damage, kills and stops."""

import errno
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.contract.tasks import TaskType
from trainer.dataset import downloading, manifest, packing
from trainer.dataset.cache import CachedDataset
from trainer.dataset.errors import (
    CacheError,
    CacheFullError,
    DatasetCorruptError,
    DatasetError,
    DatasetInvalidError,
)
from trainer.dataset.fetching import fetch
from trainer.dataset.layout import Description
from trainer.dataset.manifest import Header
from trainer.dataset.packing import MemoryIndex, pack
from trainer.stopping import Stop, StopTrainingError
from trainer.store import LocalStoreSettings, ObjectMissingError, ObjectStore, open_store

DATASET = "0b1c"
DESCRIPTION = Description(TaskType.OBJECT_DETECTION, ("circle", "square"))
PLENTY = 10**12


@pytest.fixture(autouse=True)
def _many_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few files take the ways of many."""
    monkeypatch.setattr(packing, "SHARD_BYTES", 60_000)
    monkeypatch.setattr(downloading, "RANGE_BYTES", 25_000)
    monkeypatch.setattr(downloading, "GAP_BYTES", 4_000)
    monkeypatch.setattr(downloading, "_SMALL", 8_000)
    monkeypatch.setattr(downloading, "_WINDOW", 16)


@pytest.fixture
def local(tmp_path: Path) -> ObjectStore:
    return open_store(LocalStoreSettings(tmp_path / "local"))


@pytest.fixture
def index() -> MemoryIndex:
    return MemoryIndex()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Forty pictures of up to 12 kB with labels, of which some are empty and some alike."""
    folder, drawn = tmp_path / "dataset", random.Random(3)
    for number in range(40):
        name = f"{'train' if number < 30 else 'val'}/{'night/' if number % 3 else ''}{number:02d}"
        put(folder, f"images/{name}.jpg", drawn.randbytes(drawn.randrange(12_000)))
        put(folder, f"labels/{name}.txt", b"0 0.5 0.5 0.1 0.1\n" * (number % 4))
    put(folder, "images/train/twin-1.jpg", b"large twins" * 1_000)
    put(folder, "images/train/twin-2.jpg", b"large twins" * 1_000)
    return folder


def put(folder: Path, name: str, data: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def packed(folder: Path, store: ObjectStore, index: MemoryIndex, ok: bool = True) -> Header:
    return pack(folder, DESCRIPTION, ok=ok, store=store, dataset_id=DATASET, index=index)


def fetched(store: ObjectStore, header: Header, cache: Path, **more: object) -> CachedDataset:
    return fetch(store, DATASET, header.sha256, cache, max_bytes=PLENTY, **more)  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def entries(store: ObjectStore, header: Header) -> dict[str, manifest.Entry]:
    with store.open(manifest.manifest_key(DATASET, header.sha256)) as source:
        return {entry.path: entry for entry in manifest.read(source)[1]}


def left_over(cache: Path) -> list[str]:
    return [path.name for path in (cache / "datasets").iterdir() if path.name.startswith((".fetching", ".removing"))]


def spoil(store: ObjectStore, header: Header, path: str) -> None:
    """Change the first byte of a file in its shard."""
    entry = entries(store, header)[path]
    key = header.shards[entry.shard].key
    with store.open(key) as source:
        data = bytearray(source.read())
    data[entry.offset] ^= 1
    store.put_bytes(key, bytes(data))


class TestCold:
    def test_what_was_packed_comes_back(
        self, store: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path
    ) -> None:
        header = packed(dataset, store, index)
        steps: list[tuple[int, int]] = []
        with fetched(store, header, tmp_path / "cache", progress=lambda *step: steps.append(step)) as cached:
            assert cached.folder == tmp_path / "cache" / "datasets" / header.sha256
            assert cached.header == header
            assert content(cached.folder) == content(dataset)
        assert steps[-1] == (header.size, header.size)
        assert steps == sorted(steps)
        assert left_over(tmp_path / "cache") == []

    def test_files_of_several_versions_come_from_the_shards_of_all(
        self, store: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path
    ) -> None:
        for number in range(3):
            for each in range(number, 40, 5):
                put(dataset, f"labels/train/{each:02d}-more.txt", f"{number} 0.5 0.5 0.1 0.1\n".encode())
            header = packed(dataset, store, index)
        with fetched(store, header, tmp_path / "cache") as cached:
            assert content(cached.folder) == content(dataset)

    def test_files_are_read_only_and_their_folders_are_not(
        self, local: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path
    ) -> None:
        """ultralytics leaves `labels/train.cache` beside the labels."""
        header = packed(dataset, local, index)
        with fetched(local, header, tmp_path / "cache") as cached:
            assert all(path.stat().st_mode & 0o222 == 0 for path in cached.folder.rglob("*") if path.is_file())
            assert all(path.stat().st_mode & 0o200 for path in cached.folder.rglob("*") if path.is_dir())
            (cached.folder / "labels/train.cache").write_bytes(b"of ultralytics")
        with fetched(local, header, tmp_path / "cache") as again:
            assert (again.folder / "labels/train.cache").exists()

    def test_a_file_that_is_streamed_is_checked_too(
        self, local: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path
    ) -> None:
        header = packed(dataset, local, index)
        spoil(local, header, "images/train/twin-1.jpg")
        with pytest.raises(DatasetCorruptError, match=r"images/train/twin-\d\.jpg"):
            fetched(local, header, tmp_path / "cache")


class TestRefused:
    def test_a_version_with_errors(self, store: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path) -> None:
        header = packed(dataset, store, index, ok=False)
        with pytest.raises(DatasetInvalidError, match="has errors"):
            fetched(store, header, tmp_path / "cache")
        assert left_over(tmp_path / "cache") == []

    def test_a_version_for_another_task_even_from_the_cache(
        self, local: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path
    ) -> None:
        header = packed(dataset, local, index)
        for _ in ("cold", "warm"):
            with pytest.raises(DatasetInvalidError, match="labelled for object_detection, and the job is for pose_est"):
                fetched(local, header, tmp_path / "cache", task_type=TaskType.POSE_ESTIMATION)
            fetched(local, header, tmp_path / "cache", task_type=TaskType.OBJECT_DETECTION).close()

    def test_a_version_that_the_store_does_not_have(self, store: ObjectStore, tmp_path: Path) -> None:
        with pytest.raises(ObjectMissingError, match=r"no manifest of this dataset version .*0{64}"):
            fetch(store, DATASET, "0" * 64, tmp_path / "cache", max_bytes=PLENTY)
        assert left_over(tmp_path / "cache") == []

    @pytest.mark.parametrize("sha256", ["", "../../outside", "A" * 64, "0" * 63, "0" * 64 + "\n"])
    def test_what_is_no_digest(self, local: ObjectStore, tmp_path: Path, sha256: str) -> None:
        with pytest.raises(DatasetError, match="no SHA-256"):
            fetch(local, DATASET, sha256, tmp_path, max_bytes=PLENTY)

    def test_the_manifest_of_another_version(
        self, local: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path
    ) -> None:
        header = packed(dataset, local, index)
        with local.open(manifest.manifest_key(DATASET, header.sha256)) as source:
            local.put_bytes(manifest.manifest_key(DATASET, "0" * 64), source.read())
        with pytest.raises(DatasetCorruptError, match=f"is that of {header.sha256}"):
            fetch(local, DATASET, "0" * 64, tmp_path / "cache", max_bytes=PLENTY)

    def test_a_manifest_that_names_shards_of_another_dataset(
        self, local: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path
    ) -> None:
        header = packed(dataset, local, index)
        with local.open(manifest.manifest_key(DATASET, header.sha256)) as source:
            local.put_bytes(manifest.manifest_key("another", header.sha256), source.read())
        with pytest.raises(DatasetCorruptError, match="no part of dataset another"):
            fetch(local, "another", header.sha256, tmp_path / "cache", max_bytes=PLENTY)

    @pytest.mark.parametrize("data", [b"", b"<html>not what you wanted</html>"])
    def test_a_manifest_that_is_none(self, local: ObjectStore, tmp_path: Path, data: bytes) -> None:
        local.put_bytes(manifest.manifest_key(DATASET, "0" * 64), data)
        with pytest.raises(DatasetCorruptError, match="manifest"):
            fetch(local, DATASET, "0" * 64, tmp_path / "cache", max_bytes=PLENTY)


class TestDamageInTheStore:
    def test_one_changed_byte_is_noticed_and_its_shard_named(
        self, store: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path
    ) -> None:
        header = packed(dataset, store, index)
        path = "images/train/00.jpg"
        spoil(store, header, path)
        with pytest.raises(DatasetCorruptError) as caught:
            fetched(store, header, tmp_path / "cache")
        assert path in str(caught.value)
        assert header.shards[entries(store, header)[path].shard].key in str(caught.value)
        assert not (tmp_path / "cache" / "datasets" / header.sha256).exists()
        assert left_over(tmp_path / "cache") == []

    def test_a_shard_cut_short_is_noticed(
        self, store: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path
    ) -> None:
        header = packed(dataset, store, index)
        store.put_bytes(header.shards[0].key, b"short")
        with pytest.raises(DatasetCorruptError, match="as it was packed"):
            fetched(store, header, tmp_path / "cache")

    def test_a_missing_shard_is_named(
        self, store: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path
    ) -> None:
        header = packed(dataset, store, index)
        store.delete(header.shards[-1].key)
        with pytest.raises(ObjectMissingError, match=header.shards[-1].key):
            fetched(store, header, tmp_path / "cache")
        assert left_over(tmp_path / "cache") == []

    def test_damage_on_the_way_is_mended_by_asking_once_more(
        self, local: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path
    ) -> None:
        header = packed(dataset, local, index)
        with open(tmp_path / "local" / header.shards[0].key, "rb") as shard:
            right = shard.read()
        spoil(local, header, "images/train/00.jpg")
        mended = threading.Event()

        class Mending(type(local)):  # type: ignore[misc]
            """Right again as soon as the shard was read once."""

            def _reader(self, key: str, start: int, end: int | None) -> object:
                got = super()._reader(key, start, end)
                if key == header.shards[0].key and not mended.is_set():
                    mended.set()
                    self.put_bytes(key, right)
                return got

        with fetched(Mending(LocalStoreSettings(tmp_path / "local")), header, tmp_path / "cache") as cached:
            assert content(cached.folder) == content(dataset)


class TestWarm:
    def test_it_needs_no_store(self, store: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path) -> None:
        header = packed(dataset, store, index)
        first = fetched(store, header, tmp_path / "cache")
        store.delete_prefix(f"datasets/{DATASET}")
        steps: list[tuple[int, int]] = []
        with fetched(store, header, tmp_path / "cache", progress=lambda *step: steps.append(step)) as again:
            assert again.folder == first.folder
            assert again.header == header
        assert steps == [(header.size, header.size)]

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: path.unlink(),
            lambda path: (path.unlink(), path.write_bytes(b"other")),
            lambda path: (path.chmod(0o644), path.write_bytes(b"\0" * path.stat().st_size)),
            lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
            lambda path: (path.chmod(0o644), os.truncate(path, 3)),
        ],
    )
    def test_files_that_were_changed_are_fetched_anew_and_the_rest_stays(
        self,
        store: ObjectStore,
        dataset: Path,
        index: MemoryIndex,
        tmp_path: Path,
        damage: Callable[[Path], object],
    ) -> None:
        header = packed(dataset, store, index)
        with fetched(store, header, tmp_path / "cache") as cached:
            kept = (cached.folder / "images/train/03.jpg").stat().st_ino
            for name in ("images/train/00.jpg", "images/train/twin-2.jpg", "labels/train/03.txt"):
                damage(cached.folder / name)
            # The first job still trains while the second one starts.
            with fetched(store, header, tmp_path / "cache") as again:
                assert content(again.folder) == content(dataset)
                assert (again.folder / "images/train/03.jpg").stat().st_ino == kept
        assert left_over(tmp_path / "cache") == []

    @pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"damaged")])
    def test_a_lost_manifest_is_fetched_anew(
        self,
        local: ObjectStore,
        dataset: Path,
        index: MemoryIndex,
        tmp_path: Path,
        damage: Callable[[Path], object],
    ) -> None:
        header = packed(dataset, local, index)
        with fetched(local, header, tmp_path / "cache") as cached:
            damage(cached.folder.with_name(f"{header.sha256}.jsonl.gz"))
            with fetched(local, header, tmp_path / "cache") as again:
                assert content(again.folder) == content(dataset)


class TestSharing:
    def test_unchanged_files_of_another_version_are_linked_and_not_fetched(
        self, store: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path
    ) -> None:
        first = packed(dataset, store, index)
        with fetched(store, first, tmp_path / "cache") as old:
            (old.folder / "images/train/03.jpg").chmod(0o644)
            (old.folder / "images/train/03.jpg").write_bytes(b"changed in the cache")
            put(dataset, "labels/train/00.txt", b"1 0.5 0.5 0.2 0.2\n")
            (dataset / "images/val/30.jpg").unlink()
            second = packed(dataset, store, index)
            with fetched(store, second, tmp_path / "cache") as new:
                assert content(new.folder) == content(dataset)
                fresh = {path for path in content(dataset) if not (new.folder / path).samefile(old.folder / path)}
                assert fresh == {"labels/train/00.txt", "images/train/03.jpg"}

    def test_only_what_is_new_is_asked_of_the_store(
        self, local: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path
    ) -> None:
        first = packed(dataset, local, index)
        fetched(local, first, tmp_path / "cache").close()
        put(dataset, "labels/train/00.txt", b"1 0.5 0.5 0.2 0.2\n")
        second = packed(dataset, local, index)
        for shard in first.shards:
            local.delete(shard.key)
        with fetched(local, second, tmp_path / "cache") as cached:
            assert content(cached.folder) == content(dataset)


class TestStopping:
    def test_a_stop_ends_the_fetch_and_leaves_nothing(
        self, store: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path
    ) -> None:
        header = packed(dataset, store, index)
        stop = Stop()

        def stop_half_way(done: int, total: int) -> None:
            if done:
                stop.ask("SIGTERM")

        with pytest.raises(StopTrainingError):
            fetched(store, header, tmp_path / "cache", progress=stop_half_way, check=stop.check)
        assert left_over(tmp_path / "cache") == []
        assert not (tmp_path / "cache" / "datasets" / header.sha256).exists()
        with fetched(store, header, tmp_path / "cache") as cached:
            assert content(cached.folder) == content(dataset)

    def test_no_thread_is_left(self, local: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path) -> None:
        header = packed(dataset, local, index)
        local.delete(header.shards[0].key)
        with pytest.raises(ObjectMissingError):
            fetched(local, header, tmp_path / "cache")
        assert [thread for thread in threading.enumerate() if thread.name == "downloading"] == []


class TestTheDiskOfTheCache:
    def test_a_place_that_cannot_be_written_is_named_with_its_setting(
        self, local: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path
    ) -> None:
        header = packed(dataset, local, index)
        (tmp_path / "file").touch()
        with pytest.raises(CacheError, match=r"dataset cache .*CACHE_DIR") as caught:
            fetched(local, header, tmp_path / "file")
        assert not isinstance(caught.value, CacheFullError)

    def test_a_disk_that_gets_full_is_told_from_other_errors(
        self, local: ObjectStore, dataset: Path, index: MemoryIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        header = packed(dataset, local, index)

        def full(path: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(downloading, "_create", full)
        with pytest.raises(CacheFullError, match="No space left on device"):
            fetched(local, header, tmp_path / "cache")
        assert left_over(tmp_path / "cache") == []

    def test_a_dataset_larger_than_the_disk_is_refused_before_it_is_fetched(
        self, local: ObjectStore, tmp_path: Path
    ) -> None:
        huge = manifest.Entry("images/train/a.jpg", "a" * 64, 10**16, 0, 0)
        shard = manifest.Shard(manifest.shard_key(DATASET, "one"), "1" * 64, 10**16)
        digest = manifest.content_digest(DESCRIPTION, True, [huge])
        header = Header(digest, DESCRIPTION, 1, 10**16, True, (shard,))
        manifest.write(tmp_path / "m", header, [huge])
        local.put_file(manifest.manifest_key(DATASET, digest), tmp_path / "m")
        with pytest.raises(CacheFullError, match=r"needs 10000000\.0 GB"):
            fetched(local, header, tmp_path / "cache")
