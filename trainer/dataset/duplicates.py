"""Pictures of the same bytes. What was seen lies in a file, so that a million pictures take no more memory than ten."""

import sqlite3
import tempfile
from pathlib import Path
from types import TracebackType

_CACHE_KIB = 4_096


class SeenPictures:
    """A context manager, for one thread."""

    def __enter__(self) -> "SeenPictures":
        self._folder = tempfile.TemporaryDirectory(prefix="trainyard-")
        # No transaction ever ends and nothing is synced: what is in the file matters to nobody after a crash.
        self._database = sqlite3.connect(Path(self._folder.name, "seen"), isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._database.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY, path TEXT NOT NULL) WITHOUT ROWID")
        self._database.execute("BEGIN")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
        self._folder.cleanup()

    def first_with(self, sha256: str, path: str) -> str | None:
        """The path that was first seen with these bytes; None where `path` is the first."""
        digest = bytes.fromhex(sha256)
        added = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (digest, path))
        if added.rowcount:
            return None
        row = self._database.execute("SELECT path FROM seen WHERE digest = ?", (digest,)).fetchone()
        return str(row[0])
