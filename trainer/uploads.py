"""Checkpoints and artifacts on their way to the store, without holding training up."""

import logging
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from trainer.contract.messages import ArtifactKind, ArtifactStored
from trainer.reporting import Reporter
from trainer.store import ObjectStore, StoreError

logger = logging.getLogger(__name__)

# A checkpoint goes up when this much time has passed since the one before; the last state always goes up at the end.
CHECKPOINT_SECONDS = 60.0
_CONTENT_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".csv": "text/csv", ".yaml": "application/yaml"}


@dataclass(frozen=True)
class _Snapshot:
    """A copy of a checkpoint: ultralytics overwrites its own file in the next epoch."""

    path: Path
    kind: ArtifactKind
    epoch: int | None


class Uploader:
    """Puts files under the attempt's prefix and reports each once it lies complete in the store."""

    def __init__(
        self, store: ObjectStore, prefix: str, reporter: Reporter, scratch: Path, every: float = CHECKPOINT_SECONDS
    ) -> None:
        self._every = every  # seconds between two checkpoints
        self._store, self._prefix, self._reporter, self._scratch = store, prefix, reporter, scratch
        self._thread: threading.Thread | None = None
        self._last_upload = time.monotonic()
        self._best: Path | None = None  # changed since it was last stored
        self.best_epoch: int | None = None

    def checkpoint(self, epoch: int, best: Path | None, last: Path) -> None:
        """Upload the state after `epoch` on a thread, unless one is under way or too little time has passed.

        `best` is given where this epoch is the best so far; it goes up with the next upload, which may be a later one.
        """
        if best is not None:
            self._best, self.best_epoch = best, epoch
        if time.monotonic() - self._last_upload < self._every or self._busy:
            return
        self._last_upload = time.monotonic()
        self._scratch.mkdir(parents=True, exist_ok=True)
        snapshots = [self._snapshot(last, ArtifactKind.LAST, epoch)]
        if self._best is not None:
            snapshots.append(self._snapshot(self._best, ArtifactKind.BEST, self.best_epoch))
        self._thread = threading.Thread(target=self._upload_snapshots, args=(snapshots,), name="upload", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the upload under way is done."""
        if self._thread is not None:
            self._thread.join()

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

    @property
    def _busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _snapshot(self, path: Path, kind: ArtifactKind, epoch: int | None) -> _Snapshot:
        return _Snapshot(Path(shutil.copy(path, self._scratch / path.name)), kind, epoch)

    def _upload_snapshots(self, snapshots: list[_Snapshot]) -> None:
        for snapshot in snapshots:
            try:
                self.put(snapshot.path, snapshot.kind, snapshot.epoch)
                if snapshot.kind == ArtifactKind.BEST and snapshot.epoch == self.best_epoch:
                    self._best = None  # not before it is stored: one that was not taken goes up with the next
            except StoreError as error:
                # Not the end: the next checkpoint tries again, and the one at the end must succeed.
                logger.warning("%s of epoch %s was not stored: %s", snapshot.path.name, snapshot.epoch, error)
