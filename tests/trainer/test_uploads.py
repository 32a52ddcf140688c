"""Checkpoints on their way to the store while a training goes on."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from trainer.contract.messages import ArtifactKind
from trainer.reporting import Reporter
from trainer.stopping import Stop, StopTrainingError
from trainer.store import LocalStoreSettings, ObjectStore, StoredObject, StoreError, open_store
from trainer.store_local import LocalStore
from trainer.uploads import WAITING_CHECKPOINTS, Uploader

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


# --- periodic checkpoints -----------------------------------------------------------------------------------------


class GatedStore(LocalStore):
    """A folder that takes nothing until its gate is opened: a store that is slow."""

    def __init__(self, settings: LocalStoreSettings) -> None:
        super().__init__(settings)
        self.gate = threading.Event()

    def put_file(self, key: str, path: Path, content_type: str | None = None) -> StoredObject:
        assert self.gate.wait(30)
        return super().put_file(key, path, content_type)


@pytest.fixture
def slow_store(tmp_path: Path) -> Iterator[GatedStore]:
    store = GatedStore(LocalStoreSettings(tmp_path / "store"))
    yield store
    store.gate.set()


def train(uploader: Uploader, tmp_path: Path, *epochs: int) -> None:
    for epoch in epochs:
        uploader.checkpoint(epoch, None, write(tmp_path, "last.pt", f"state {epoch}"))


def test_every_nth_epoch_is_stored_under_its_own_name(store: ObjectStore, reporter: Reporter, tmp_path: Path) -> None:
    uploader = Uploader(store, PREFIX, reporter, tmp_path / "scratch", every=3600, epochs=2)
    train(uploader, tmp_path, 1, 2, 3, 4, 5)
    uploader.close()
    uploader.put_waiting()
    assert said(tmp_path) == [("epoch-2.pt", 2), ("epoch-4.pt", 4)]
    assert (stored(store, "epoch-2.pt"), stored(store, "epoch-4.pt")) == (b"state 2", b"state 4")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_slow_store_does_not_hold_training_up_and_gets_every_checkpoint_in_order(
    slow_store: GatedStore, reporter: Reporter, tmp_path: Path
) -> None:
    uploader = Uploader(slow_store, PREFIX, reporter, tmp_path / "scratch", every=3600, epochs=1)
    epochs = range(1, WAITING_CHECKPOINTS + 1)
    train(uploader, tmp_path, *epochs)
    assert said(tmp_path) == []
    slow_store.gate.set()
    uploader.wait()
    assert said(tmp_path) == [(f"epoch-{epoch}.pt", epoch) for epoch in epochs]
    assert [stored(slow_store, f"epoch-{epoch}.pt") for epoch in epochs] == [b"state %d" % epoch for epoch in epochs]


def test_training_waits_before_the_disk_fills_with_checkpoints(
    slow_store: GatedStore, reporter: Reporter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uploader = Uploader(slow_store, PREFIX, reporter, tmp_path / "scratch", every=3600, epochs=1)
    epochs = range(1, WAITING_CHECKPOINTS + 3)
    most: list[int] = []
    trained = threading.Thread(target=train, args=(uploader, tmp_path, *epochs))
    trained.start()
    while "Training waits" not in caplog.text:
        trained.join(0.01)
    assert trained.is_alive()
    most.append(len(list((tmp_path / "scratch").iterdir())))
    slow_store.gate.set()
    trained.join(30)
    uploader.wait()
    assert most == [WAITING_CHECKPOINTS]
    assert said(tmp_path) == [(f"epoch-{epoch}.pt", epoch) for epoch in epochs]


def test_a_training_that_waits_for_the_store_can_be_stopped(
    slow_store: GatedStore, reporter: Reporter, tmp_path: Path
) -> None:
    stop = Stop()
    uploader = Uploader(slow_store, PREFIX, reporter, tmp_path / "scratch", every=3600, epochs=1, check=stop.check)
    train(uploader, tmp_path, *range(1, WAITING_CHECKPOINTS + 1))
    stop.ask("SIGTERM")
    with pytest.raises(StopTrainingError):
        train(uploader, tmp_path, WAITING_CHECKPOINTS + 1)
    slow_store.gate.set()
    uploader.close()
    uploader.put_waiting()
    assert [epoch for _name, epoch in said(tmp_path)] == [*range(1, WAITING_CHECKPOINTS + 1)]


def test_a_periodic_checkpoint_that_was_not_taken_is_stored_at_the_end(
    folder_store: ObjectStore, reporter: Reporter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    obstacle = tmp_path / "store"
    obstacle.write_text("a file where the store's folder should be")
    uploader = Uploader(folder_store, PREFIX, reporter, tmp_path / "scratch", every=3600, epochs=1)
    train(uploader, tmp_path, 1, 2)
    while "epoch-1.pt of epoch 1 was not stored" not in caplog.text:
        threading.Event().wait(0.01)
    uploader.close()
    with pytest.raises(StoreError):
        uploader.put_waiting()
    uploader.rescue_waiting()
    assert "Not stored, and left in" in caplog.text
    assert said(tmp_path) == []
    obstacle.unlink()
    uploader.put_waiting()
    assert said(tmp_path) == [("epoch-1.pt", 1), ("epoch-2.pt", 2)]


# --- what a reader sees -------------------------------------------------------------------------------------------


def test_whoever_reads_a_checkpoint_while_it_is_replaced_gets_a_whole_one(
    store: ObjectStore, reporter: Reporter, tmp_path: Path
) -> None:
    """Old or new, and never a mixture or a part of one; its digest is the one that was reported."""
    size = 3 << 20
    uploader = Uploader(store, PREFIX, reporter, tmp_path / "scratch", every=0)
    uploader.put(write(tmp_path, "best.pt", "0" * size), ArtifactKind.BEST, 0)
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            content = stored(store, "best.pt")
            assert len(content) == size
            assert len(set(content)) == 1
            seen.add(content[:1])

    with ThreadPoolExecutor(2) as readers:
        reading = [readers.submit(read) for _ in range(2)]
        try:
            for number in range(1, 8):
                uploader.put(write(tmp_path, "best.pt", str(number) * size), ArtifactKind.BEST, number)
        finally:
            done.set()
        for each in reading:
            each.result()
    assert len(seen) > 1, "nothing was read while it was replaced"
    told = map(json.loads, (tmp_path / "messages.jsonl").read_text().splitlines())
    lines = [line["data"] for line in told if line["type"] == "artifact"]
    assert [line["sha256"] for line in lines] == [sha256(str(n).encode() * size).hexdigest() for n in range(8)]
    assert {line["size"] for line in lines} == {size}
