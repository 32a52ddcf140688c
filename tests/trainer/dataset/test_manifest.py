"""Manifests: the same bytes for the same content, read in a stream, and trusted only as far as they prove."""

import dataclasses
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.contract.tasks import TaskType
from trainer.dataset import manifest
from trainer.dataset.errors import DatasetCorruptError
from trainer.dataset.layout import Description, Keypoints
from trainer.dataset.manifest import Entry, Header, Shard, content_digest

DESCRIPTION = Description(TaskType.POSE_ESTIMATION, ("고양이", "dog"), Keypoints(2, 3, (1, 0)))
SHARDS = (Shard("datasets/d/shards/one.tar", "1" * 64, 10_000), Shard("datasets/d/shards/two.tar", "2" * 64, 500))
ENTRIES = [
    Entry("images/train/a.jpg", "a" * 64, 700, 0, 512),
    Entry("images/train/개.jpg", "b" * 64, 0, 1, 500),
    Entry("labels/train/a.txt", "c" * 64, 30, 1, 0),
]


def header(entries: list[Entry] = ENTRIES) -> Header:
    digest = content_digest(DESCRIPTION, True, entries)
    return Header(digest, DESCRIPTION, len(entries), sum(entry.size for entry in entries), True, SHARDS)


def written(path: Path, head: Header, entries: list[Entry]) -> bytes:
    manifest.write(path, head, iter(entries))
    return path.read_bytes()


def read_all(data: bytes) -> tuple[Header, list[Entry]]:
    head, entries = manifest.read(io.BytesIO(data))
    return head, list(entries)


def zipped(*lines: Any) -> bytes:
    return gzip.compress(b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert read_all(written(tmp_path / "m", header(), ENTRIES)) == (header(), ENTRIES)


def test_the_same_version_is_the_same_bytes_under_any_name(tmp_path: Path) -> None:
    assert written(tmp_path / "a", header(), ENTRIES) == written(tmp_path / "b.gz", header(), ENTRIES)


def test_the_digest_tells_what_a_version_holds_and_not_where(tmp_path: Path) -> None:
    moved = [dataclasses.replace(entry, shard=0, offset=99) for entry in ENTRIES]
    assert content_digest(DESCRIPTION, True, moved) == content_digest(DESCRIPTION, True, ENTRIES)


@pytest.mark.parametrize(
    "other",
    [
        lambda: content_digest(DESCRIPTION, False, ENTRIES),
        lambda: content_digest(dataclasses.replace(DESCRIPTION, class_names=("a", "b")), True, ENTRIES),
        lambda: content_digest(dataclasses.replace(DESCRIPTION, keypoints=Keypoints(2, 2)), True, ENTRIES),
        lambda: content_digest(DESCRIPTION, True, ENTRIES[:-1]),
        lambda: content_digest(DESCRIPTION, True, [dataclasses.replace(ENTRIES[0], path="images/b"), *ENTRIES[1:]]),
        lambda: content_digest(DESCRIPTION, True, [dataclasses.replace(ENTRIES[0], size=1), *ENTRIES[1:]]),
    ],
)
def test_any_difference_in_content_is_another_digest(other: Callable[[], str]) -> None:
    assert other() != content_digest(DESCRIPTION, True, ENTRIES)


def test_keys_name_dataset_and_version() -> None:
    assert manifest.manifest_key("0b1c", "9f86") == "datasets/0b1c/versions/9f86.jsonl.gz"
    assert manifest.shard_key("0b1c", "77") == "datasets/0b1c/shards/77.tar"


@pytest.mark.parametrize(
    "path",
    [
        "/images/a.jpg",
        "images/../../etc/passwd",
        "images/./a.jpg",
        "images//a.jpg",
        "images/",
        "images",
        "images\\a.jpg",
        "images/a\\..\\b.jpg",
        "../images/a.jpg",
        "data.yaml",
        "secrets/a.jpg",
        "images/a\x00.jpg",
        "images/a\n.jpg",
        "images/" + "x" * 256,
        "images/" + "x/" * 600 + "a",
        "",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(tmp_path: Path, path: str) -> None:
    hostile = [dataclasses.replace(ENTRIES[0], path=path)]
    with pytest.raises(DatasetCorruptError, match=r"its path|its header"):
        read_all(written(tmp_path / "m", header(hostile), hostile))


@pytest.mark.parametrize(
    "change",
    [
        {"size": -1},
        {"offset": -1},
        {"shard": -1},
        {"shard": 2},
        {"offset": 9_999},
        {"size": 10**18},
        {"sha256": "A" * 64},
        {"sha256": "short"},
    ],
)
def test_a_place_outside_its_shard_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    hostile = [dataclasses.replace(ENTRIES[0], **change)]
    with pytest.raises(DatasetCorruptError, match=r"it has the line|its header"):
        read_all(written(tmp_path / "m", header(hostile), hostile))


@pytest.mark.parametrize("entries", [ENTRIES[::-1], [ENTRIES[0], ENTRIES[0]]])
def test_entries_out_of_order_or_twice_are_refused(tmp_path: Path, entries: list[Entry]) -> None:
    with pytest.raises(DatasetCorruptError, match="out of order or twice"):
        read_all(written(tmp_path / "m", header(entries), entries))


def test_entries_that_do_not_add_up_are_noticed_at_the_end(tmp_path: Path) -> None:
    changed = [*ENTRIES[:2], dataclasses.replace(ENTRIES[2], sha256="d" * 64)]
    _head, entries = manifest.read(io.BytesIO(written(tmp_path / "m", header(), changed)))
    assert [next(entries), next(entries), next(entries)] == changed
    with pytest.raises(DatasetCorruptError, match="does not add up"):
        next(entries)


@pytest.mark.parametrize("some", [ENTRIES[:2], []])
def test_a_list_that_ends_early_is_noticed(tmp_path: Path, some: list[Entry]) -> None:
    with pytest.raises(DatasetCorruptError, match="does not add up"):
        read_all(written(tmp_path / "m", header(), some))


def test_more_files_than_announced_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(DatasetCorruptError, match="more than its 1 files"):
        read_all(written(tmp_path / "m", dataclasses.replace(header(), files=1), ENTRIES))


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = written(tmp_path / "m", header(), ENTRIES)
    for end in range(0, len(data), 7):
        with pytest.raises(DatasetCorruptError):
            read_all(data[:end])


@pytest.mark.parametrize("data", [b"", b"<html>not what you wanted</html>", zipped(b"no json\n"), zipped([1, 2])])
def test_what_is_no_manifest_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(DatasetCorruptError, match="Import the data again"):
        read_all(data)


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    head = gzip.decompress(written(tmp_path / "m", header(), ENTRIES)).splitlines(keepends=True)[0]
    with pytest.raises(DatasetCorruptError, match="longer than"):
        read_all(zipped(head, b"[" + b" " * 100_000))


def test_nesting_without_end_is_refused() -> None:
    with pytest.raises(DatasetCorruptError, match="not JSON"):
        read_all(zipped(b"[" * 200_000 + b"\n"))


@pytest.fixture
def head_json(tmp_path: Path) -> dict[str, Any]:
    return json.loads(gzip.decompress(written(tmp_path / "m", header(), ENTRIES)).splitlines()[0])


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"sha256": "x"},
        {"files": -1},
        {"files": True},
        {"size": "10"},
        {"ok": "yes"},
        {"shards": [["../../etc/passwd", "1" * 64, 5]]},
        {"shards": [["datasets/d/shards/a.tar", "1" * 64, -5]]},
        {"shards": [["datasets/d/shards/a.tar"]]},
        {"shards": 5},
        {"description": None},
        {"description": {"task_type": "juggling", "class_names": [], "keypoints": None}},
        {"description": {"task_type": "object_detection", "class_names": [1], "keypoints": None}},
        {"description": {"task_type": "object_detection", "class_names": ["a"], "keypoints": [1]}},
    ],
)
def test_a_header_that_is_not_right_is_refused(head_json: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(DatasetCorruptError, match="its header"):
        read_all(zipped({**head_json, **change}, b"\n"))


def test_entries_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    def endless() -> Iterator[Entry]:
        for number in range(20_000):
            yield Entry(f"images/train/{number:06d}.jpg", f"{number:064x}", 1, 0, 0)

    head = dataclasses.replace(header(), files=20_000)
    manifest.write(tmp_path / "m", head, endless())
    with (tmp_path / "m").open("rb") as source:
        _head, entries = manifest.read(source)
        assert next(entries).path == "images/train/000000.jpg"
        assert source.tell() < (tmp_path / "m").stat().st_size
