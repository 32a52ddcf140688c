"""Packing: what is stored, what is stored once, and what an interruption leaves."""

import hashlib
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from trainer.contract.tasks import TaskType
from trainer.dataset import manifest, packing
from trainer.dataset.errors import DatasetError
from trainer.dataset.layout import Description
from trainer.dataset.manifest import Entry, Header, Shard
from trainer.dataset.packing import MemoryIndex, pack
from trainer.store import ObjectStore, StoredObject, StoreUnreachableError
from trainer.store_local import LocalStore

DATASET = "0b1c"
DESCRIPTION = Description(TaskType.OBJECT_DETECTION, ("circle", "square"))


class CountingIndex(MemoryIndex):
    """Remembers what was added, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.added: list[tuple[Shard, dict[str, tuple[int, int]]]] = []

    def add(self, shard: Shard, files: Mapping[str, tuple[int, int]]) -> None:
        assert not self.find(list(files)), "the same bytes were stored twice"
        self.added.append((shard, dict(files)))
        super().add(shard, files)

    @property
    def files(self) -> int:
        return sum(len(files) for _shard, files in self.added)


class BrokenStore(LocalStore):
    """A folder that fails from one upload on."""

    works = 2

    def put_file(self, key: str, path: Path, content_type: str | None = None) -> StoredObject:
        if self.works <= 0:
            raise StoreUnreachableError("The store went away.")
        self.works -= 1
        return super().put_file(key, path, content_type)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SHARD_BYTES", 20_000)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Twelve pictures of 5 kB with their labels, and what does not belong to a version."""
    folder = tmp_path / "dataset"
    for number in range(12):
        split = "train" if number < 8 else "val"
        put(folder, f"images/{split}/{number:02d}.jpg", os.urandom(5_000))
        put(folder, f"labels/{split}/{number:02d}.txt", f"0 0.5 0.5 0.1 0.{number + 1}\n".encode())
    put(folder, "data.yaml", b"names: [circle, square]\n")
    put(folder, "labels/train.cache", b"of ultralytics")
    put(folder, "LICENSE", b"text")
    (folder / "images/train/link.jpg").symlink_to(folder / "images/train/00.jpg")
    return folder


def put(folder: Path, name: str, data: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def packed(folder: Path, store: ObjectStore, index: packing.Index, **more: object) -> Header:
    return pack(folder, DESCRIPTION, ok=True, store=store, dataset_id=DATASET, index=index, **more)  # type: ignore[arg-type]


def listed(store: ObjectStore, sha256: str) -> tuple[Header, list[Entry]]:
    with store.open(manifest.manifest_key(DATASET, sha256)) as source:
        header, entries = manifest.read(source)
        return header, list(entries)


def stored_bytes(store: ObjectStore, header: Header, entry: Entry) -> bytes:
    with store.open(header.shards[entry.shard].key, entry.offset, entry.offset + entry.size) as source:
        return source.read()


def keys(store: ObjectStore) -> list[str]:
    return sorted(stored.key for stored in store.list(f"datasets/{DATASET}"))


@pytest.mark.usefixtures("small_shards")
def test_every_file_lies_where_the_manifest_says(store: ObjectStore, dataset: Path) -> None:
    header = packed(dataset, store, MemoryIndex())
    read, entries = listed(store, header.sha256)
    assert read == header
    assert (header.files, header.size, header.ok) == (24, sum(entry.size for entry in entries), True)
    assert len(header.shards) > 2
    assert {entry.path: stored_bytes(store, header, entry) for entry in entries} == {
        path.relative_to(dataset).as_posix(): path.read_bytes()
        for kind in ("images", "labels")
        for path in (dataset / kind).rglob("*")
        if path.suffix != ".cache" and path.is_file() and not path.is_symlink()
    }


@pytest.mark.usefixtures("small_shards")
def test_a_shard_is_a_tar_that_anybody_can_open(store: ObjectStore, dataset: Path) -> None:
    header = packed(dataset, store, MemoryIndex())
    names = []
    for shard in header.shards:
        with store.open(shard.key) as source:
            data = source.read()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.size, shard.sha256)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                extracted = tar.extractfile(member)
                assert extracted is not None
                assert extracted.read() == (dataset / member.name).read_bytes()
                names.append(member.name)
    assert len(names) == 24


def test_the_same_content_is_the_same_version_however_it_is_packed(
    store: ObjectStore, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = packed(dataset, store, MemoryIndex())
    monkeypatch.setattr(packing, "SHARD_BYTES", 9_000)
    for path in sorted(dataset.rglob("*")):
        path.touch()
    second = packed(dataset, store, MemoryIndex())
    assert second.sha256 == first.sha256
    assert len(second.shards) > len(first.shards)


@pytest.mark.usefixtures("small_shards")
def test_a_new_version_stores_only_what_changed(store: ObjectStore, dataset: Path) -> None:
    index = CountingIndex()
    first = packed(dataset, store, index)
    put(dataset, "labels/train/03.txt", b"1 0.5 0.5 0.2 0.2\n")
    put(dataset, "images/val/new.jpg", os.urandom(5_000))
    (dataset / "images/train/05.jpg").rename(dataset / "images/train/renamed.jpg")
    before = len(index.added)
    second = packed(dataset, store, index)
    assert second.sha256 != first.sha256
    assert [len(files) for _shard, files in index.added[before:]] == [2]
    header, entries = listed(store, second.sha256)
    assert all(hashlib.sha256(stored_bytes(store, header, entry)).hexdigest() == entry.sha256 for entry in entries)


@pytest.mark.parametrize("batch", [1, 7, 256])
@pytest.mark.usefixtures("small_shards")
def test_the_same_bytes_are_stored_once_in_a_version(
    store: ObjectStore, dataset: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(packing, "_BATCH_FILES", batch)
    for number in range(40):
        put(dataset, f"images/train/copy-{number:02d}.jpg", (dataset / "images/train/00.jpg").read_bytes())
        put(dataset, f"images/train/more-{number:02d}.jpg", os.urandom(4_000))
        put(dataset, f"labels/train/copy-{number:02d}.txt", b"")
    steps: list[tuple[int, int]] = []
    index = CountingIndex()
    header = packed(dataset, store, index, progress=lambda *step: steps.append(step))
    assert header.files == 24 + 3 * 40
    assert index.files == 24 + 40 + 1
    assert steps[-1] == (header.size, header.size)
    assert [done for done, _total in steps] == sorted(done for done, _total in steps)


@pytest.mark.usefixtures("small_shards")
def test_a_file_larger_than_a_shard_gets_one_of_its_own(store: ObjectStore, dataset: Path) -> None:
    put(dataset, "images/train/05-large.jpg", os.urandom(90_000))
    index = CountingIndex()
    packed(dataset, store, index)
    large = [files for shard, files in index.added if shard.size > 90_000]
    assert [len(files) for files in large] == [1]


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_pack_goes_on_where_it_stopped(tmp_path: Path, dataset: Path) -> None:
    from trainer.store import LocalStoreSettings

    store, index = BrokenStore(LocalStoreSettings(tmp_path / "store")), CountingIndex()
    with pytest.raises(StoreUnreachableError):
        packed(dataset, store, index)
    assert 0 < index.files < 24
    assert keys(store) == sorted(shard.key for shard, _files in index.added), "what no index knows is left in the store"
    before = index.files
    store.works = 1000
    header = packed(dataset, store, index)
    assert index.files == 24
    assert header.shards[0] == index.added[0][0]
    assert before > 0
    assert listed(store, header.sha256)[0] == header


@pytest.mark.usefixtures("small_shards")
def test_a_pack_that_is_told_to_stop_leaves_nothing_unknown(store: ObjectStore, dataset: Path, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise StoppedError

    index = CountingIndex()
    (tmp_path / "scratch").mkdir()
    with pytest.raises(StoppedError):
        packed(dataset, store, index, progress=stop, scratch=tmp_path / "scratch")
    assert keys(store) == sorted(shard.key for shard, _files in index.added)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_file_that_changes_while_it_is_read_is_refused(store: ObjectStore, dataset: Path) -> None:
    class Meddling(MemoryIndex):
        def find(self, digests: object) -> dict[str, packing.Location]:
            put(dataset, "images/train/02.jpg", b"other")
            return {}

    with pytest.raises(DatasetError, match=r"images/train/02\.jpg changed while it was packed"):
        packed(dataset, store, Meddling())
    assert keys(store) == []


def test_names_of_any_script_and_length_are_kept(store: ObjectStore, dataset: Path) -> None:
    name = "그림-" + "x" * 150 + ".jpg"
    (dataset / "images/train/00.jpg").rename(dataset / "images/train" / name)
    header, entries = listed(store, packed(dataset, store, MemoryIndex()).sha256)
    entry = next(entry for entry in entries if entry.path == f"images/train/{name}")
    assert stored_bytes(store, header, entry) == (dataset / entry.path).read_bytes()


@pytest.mark.parametrize("name", [b"a\nb.jpg", b"a\\b.jpg", b"\xff.jpg"])
def test_a_name_that_no_manifest_can_hold_is_refused_before_anything_is_stored(
    store: ObjectStore, dataset: Path, name: bytes
) -> None:
    Path(os.fsdecode(bytes(dataset / "images/train") + b"/" + name)).write_bytes(b"x")
    with pytest.raises(DatasetError, match="Rename it"):
        packed(dataset, store, MemoryIndex())
    assert keys(store) == []


def test_folders_and_files_sort_as_their_paths_do(store: ObjectStore, tmp_path: Path) -> None:
    names = ["images/train/a-b/x.jpg", "images/train/a.jpg", "images/train/a/x.jpg", "images/train/ab.jpg"]
    for name in names:
        put(tmp_path / "dataset", name, name.encode())
    header = packed(tmp_path / "dataset", store, MemoryIndex())
    assert [entry.path for entry in listed(store, header.sha256)[1]] == sorted(names)


def test_a_dataset_without_files_can_be_kept_too(store: ObjectStore, tmp_path: Path) -> None:
    header = pack(
        tmp_path, DESCRIPTION, ok=False, store=store, dataset_id=DATASET, index=MemoryIndex(), scratch=tmp_path
    )
    assert (header.files, header.size, header.ok, header.shards) == (0, 0, False, ())
    assert listed(store, header.sha256) == (header, [])
