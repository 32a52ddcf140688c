"""Checkpoints and artifacts on their way to the store, without holding training up."""

import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.contract.messages import ArtifactKind, ArtifactStored
from trainer.reporting import Reporter
from trainer.store import ObjectStore, StoreError

logger = logging.getLogger(__name__)

# Best and last go up when this much time has passed since the time before; they always go up at the end.
CHECKPOINT_SECONDS = 60.0
# Periodic checkpoints that wait on the disk for a slow store. When there are so many, training waits too: to leave one
# out would break a promise, and to keep more could fill the disk, which ends the training.
WAITING_CHECKPOINTS = 4
# After a periodic checkpoint was not taken, it is tried again this much later.
RETRY_SECONDS = 10.0
_POLL_SECONDS = 0.2
_CONTENT_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".csv": "text/csv", ".yaml": "application/yaml"}


@dataclass(frozen=True)
class _Checkpoint:
    """A file that the training wrote, or a copy of it: ultralytics overwrites its own in the next epoch."""

    path: Path
    kind: ArtifactKind
    epoch: int
    stored: bool = False


class Uploader:
    """Puts files under the attempt's prefix and reports each once it lies complete in the store.

    `every` are the seconds between two uploads of best and last. `epochs` are those between two periodic checkpoints,
    which are stored for good and in their order; 0 stores none. `check` raises where training shall not wait any more.

    All methods are for the thread that trains.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        reporter: Reporter,
        scratch: Path,
        every: float = CHECKPOINT_SECONDS,
        epochs: int = 0,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._every, self._epochs, self._check = every, epochs, check
        self._store, self._prefix, self._reporter, self._scratch = store, prefix, reporter, scratch
        self._last_upload = time.monotonic()
        self._best: _Checkpoint | None = None
        # Copies on their way; each stays in its queue until it is dealt with.
        self._newest: deque[_Checkpoint] = deque()
        self._periodic: deque[_Checkpoint] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None  # None, or dead of a bug, where nothing is under way
        self._closing = threading.Event()

    @property
    def best_epoch(self) -> int | None:
        return self._best.epoch if self._best else None

    def checkpoint(self, epoch: int, best: Path | None, last: Path) -> None:
        """Upload the state after `epoch` on a thread, unless one is under way or too little time has passed.

        `best` is given where this epoch is the best so far; it goes up with the next upload, which may be a later one.
        Waits only where WAITING_CHECKPOINTS periodic checkpoints wait already.
        """
        if best is not None:
            with self._lock:
                self._best = _Checkpoint(best, ArtifactKind.BEST, epoch)
        if self._epochs and epoch % self._epochs == 0:
            self._await_room()
            self._periodic.append(self._copy(_Checkpoint(last, ArtifactKind.CHECKPOINT, epoch), f"epoch-{epoch}.pt"))
        if time.monotonic() - self._last_upload >= self._every and not self._newest:
            self._last_upload = time.monotonic()
            copies = [self._copy(_Checkpoint(last, ArtifactKind.LAST, epoch), last.name)]
            if self._best is not None and not self._best.stored:
                copies.append(self._copy(self._best, self._best.path.name))
            self._newest.extend(copies)
        self._start()

    def wait(self) -> None:
        """Until nothing is under way. With a store that takes nothing and periodic checkpoints, that is for ever."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def close(self) -> None:
        """End the work in the background after the file under way; `put_waiting` stores the rest."""
        self._closing.set()
        self.wait()

    def put_waiting(self) -> None:
        """Store the periodic checkpoints that still wait, after `close`. Raises StoreError, OSError."""
        while self._periodic:
            self._put(self._periodic[0])
            self._periodic.popleft()

    def rescue_waiting(self) -> None:
        """As `put_waiting`, where the training has failed already: what cannot be stored is said in the log."""
        try:
            self.put_waiting()
        except (StoreError, OSError) as error:
            names = ", ".join(each.path.name for each in self._periodic)
            logger.error("Not stored, and left in %s: %s (%s)", self._scratch, names, error)

    def put(self, path: Path, kind: ArtifactKind, epoch: int | None = None) -> str:
        """Store the file and report it. Returns its address in the store; raises StoreError."""
        key = f"{self._prefix}/{kind.value}/{path.name}" if kind == ArtifactKind.PLOT else f"{self._prefix}/{path.name}"
        stored = self._store.put_file(key, path, _CONTENT_TYPES.get(path.suffix))
        sha256 = stored.sha256
        if sha256 is None:
            raise StoreError(f"The store did not say what it stored under {key}.")
        self._reporter.say(
            ArtifactStored(kind=kind, name=path.name, key=key, size=stored.size, sha256=sha256, epoch=epoch)
        )
        return self._store.uri(key)

    def _await_room(self) -> None:
        if len(self._periodic) < WAITING_CHECKPOINTS:
            return
        logger.warning(
            "Training waits: %s checkpoints are not stored yet. Make the store faster, or raise CHECKPOINT_EVERY.",
            len(self._periodic),
        )
        while len(self._periodic) >= WAITING_CHECKPOINTS:
            self._check()
            self._start()
            time.sleep(_POLL_SECONDS)

    def _copy(self, checkpoint: _Checkpoint, name: str) -> _Checkpoint:
        self._scratch.mkdir(parents=True, exist_ok=True)
        return replace(checkpoint, path=Path(shutil.copy(checkpoint.path, self._scratch / name)))

    def _start(self) -> None:
        with self._lock:
            idle = self._thread is None or not self._thread.is_alive()
            if idle and (self._newest or self._periodic):
                self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while (queue := self._next_queue()) is not None:
            checkpoint = queue[0]
            try:
                self._put(checkpoint)
            except (StoreError, OSError) as error:
                # Not the end: later ones try again, and those at the end must succeed.
                logger.warning("%s of epoch %s was not stored: %s", checkpoint.path.name, checkpoint.epoch, error)
                if checkpoint.kind == ArtifactKind.CHECKPOINT:
                    self._closing.wait(RETRY_SECONDS)
                    continue
            else:
                self._note_stored(checkpoint)
            queue.popleft()

    def _next_queue(self) -> deque[_Checkpoint] | None:
        """Best and last go first: they are what a training is continued from, and there are never more than two."""
        with self._lock:
            if not self._closing.is_set():
                for queue in (self._newest, self._periodic):
                    if queue:
                        return queue
            self._thread = None
            return None

    def _put(self, checkpoint: _Checkpoint) -> None:
        self.put(checkpoint.path, checkpoint.kind, checkpoint.epoch)
        checkpoint.path.unlink()  # the copy

    def _note_stored(self, checkpoint: _Checkpoint) -> None:
        with self._lock:
            best = self._best
            if checkpoint.kind == ArtifactKind.BEST and best is not None and best.epoch == checkpoint.epoch:
                self._best = replace(best, stored=True)
