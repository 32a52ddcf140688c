"""Checkpoints on their way to the store while a training goes on."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.contract.messages import ArtifactKind
from trainer.reporting import Reporter
from trainer.stopping import Stop
from trainer.store import LocalStoreSettings, ObjectStore, StoreError, open_store
from trainer.uploads import Uploader

PREFIX = "projects/p/jobs/1/attempt-1"


@pytest.fixture
def folder_store(tmp_path: Path) -> ObjectStore:
    return open_store(LocalStoreSettings(tmp_path / "store"))


@pytest.fixture
def reporter(tmp_path: Path) -> Iterator[Reporter]:
    """Without an address: what it says stays in the spool, where `said` reads it."""
    reporter = Reporter(None, None, 1, tmp_path / "messages.jsonl", Stop())
    yield reporter
    reporter.close(0)


def said(tmp_path: Path) -> list[tuple[str, int | None]]:
    lines = [json.loads(line) for line in (tmp_path / "messages.jsonl").read_text().splitlines()]
    return [(line["data"]["name"], line["data"]["epoch"]) for line in lines if line["type"] == "artifact"]


def write(tmp_path: Path, name: str, content: str) -> Path:
    path = tmp_path / "run" / "weights" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def stored(store: ObjectStore, name: str) -> bytes:
    with store.open(f"{PREFIX}/{name}") as file:
        return file.read()


def test_what_was_the_best_between_two_uploads_goes_up_with_the_next(
    folder_store: ObjectStore, reporter: Reporter, tmp_path: Path
) -> None:
    uploader = Uploader(folder_store, PREFIX, reporter, tmp_path / "scratch", every=3600)
    uploader.checkpoint(1, write(tmp_path, "best.pt", "one"), write(tmp_path, "last.pt", "one"))
    assert said(tmp_path) == []
    uploader = Uploader(folder_store, PREFIX, reporter, tmp_path / "scratch", every=0)
    uploader.checkpoint(2, write(tmp_path, "best.pt", "two"), write(tmp_path, "last.pt", "two"))
    uploader.wait()
    uploader.checkpoint(3, None, write(tmp_path, "last.pt", "three"))
    uploader.wait()
    assert said(tmp_path) == [("last.pt", 2), ("best.pt", 2), ("last.pt", 3)]
    assert (stored(folder_store, "best.pt"), stored(folder_store, "last.pt")) == (b"two", b"three")
    assert uploader.best_epoch == 2


def test_a_best_that_was_held_back_is_stored_with_its_own_epoch(
    folder_store: ObjectStore, reporter: Reporter, tmp_path: Path
) -> None:
    uploader = Uploader(folder_store, PREFIX, reporter, tmp_path / "scratch", every=3600)
    uploader.checkpoint(4, write(tmp_path, "best.pt", "four"), write(tmp_path, "last.pt", "four"))
    uploader._every = 0  # the time has come
    uploader.checkpoint(5, None, write(tmp_path, "last.pt", "five"))
    uploader.wait()
    assert said(tmp_path) == [("last.pt", 5), ("best.pt", 4)]
    assert stored(folder_store, "best.pt") == b"four"


def test_a_checkpoint_that_the_store_does_not_take_is_not_the_end(
    reporter: Reporter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "store").write_text("a file where the store's folder should be")
    uploader = Uploader(
        open_store(LocalStoreSettings(tmp_path / "store")), PREFIX, reporter, tmp_path / "scratch", every=0
    )
    last = write(tmp_path, "last.pt", "one")
    uploader.checkpoint(1, None, last)
    uploader.wait()
    assert "last.pt of epoch 1 was not stored" in caplog.text
    assert said(tmp_path) == []
    with pytest.raises(StoreError, match="store"):
        uploader.put(last, ArtifactKind.LAST)
