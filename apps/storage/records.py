"""What the check says of each image and finding, kept in a file until their rows can be made.

The rows of a version name stored files, which there are only after packing. A dataset may have millions of images, so
they do not wait in memory; and they must not wait in the database, which has other work.
"""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from apps.storage.models import FINDINGS_KEPT
from trainer.dataset.findings import Finding
from trainer.dataset.layout import ImageRecord

_WRITTEN_AT_ONCE = 2000
_TABLES = """
PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
CREATE TABLE image (path TEXT PRIMARY KEY, split TEXT, width INT, height INT, sha256 TEXT, label_path TEXT,
    label_sha256 TEXT, instances INT, class_ids TEXT) WITHOUT ROWID;
CREATE TABLE place (path TEXT PRIMARY KEY, image_id INT) WITHOUT ROWID;
CREATE TABLE finding (number INTEGER PRIMARY KEY, severity TEXT, code TEXT, message TEXT, path TEXT, line INT);
"""
_IMAGE = "INSERT INTO image VALUES (?,?,?,?,?,?,?,?,?)"
_FINDING = "INSERT INTO finding (severity, code, message, path, line) VALUES (?,?,?,?,?)"
_PLACE = "INSERT OR REPLACE INTO place VALUES (?,?)"
_FOUND = """SELECT severity, code, message, coalesce(path, ''), line, image_id FROM finding LEFT JOIN place USING (path)
    ORDER BY severity, number"""  # "error" comes before "warning"


class ImageRow(NamedTuple):
    """What is needed of an ImageRecord to make its rows."""

    path: str
    split: str
    width: int
    height: int
    sha256: str
    label_path: str | None
    label_sha256: str | None
    instances: int
    class_ids: list[int]


class FindingRow(NamedTuple):
    severity: str
    code: str
    message: str
    path: str
    line: int | None
    image_id: int | None


class Records:
    """A scratch file at `path`, which is new. It lives as long as the context."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        # Callbacks of a check may come from a thread of its own, though never from two at once.
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.executescript(_TABLES)
        self._waiting: dict[str, list[tuple[Any, ...]]] = {_IMAGE: [], _FINDING: [], _PLACE: []}
        self._kept: dict[str, int] = {}
        self.images = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._database.close()

    def add_image(self, record: ImageRecord) -> None:
        self.images += 1
        ids = json.dumps(record.class_ids)
        size = record.width, record.height
        label = record.label_path, record.label_sha256
        self._write(_IMAGE, (record.path, record.split, *size, record.sha256, *label, record.instances, ids))

    def add_finding(self, finding: Finding) -> None:
        """Keeps the first FINDINGS_KEPT of each kind; the report counts them all."""
        kept = self._kept[finding.code] = self._kept.get(finding.code, 0) + 1
        if kept <= FINDINGS_KEPT:
            its = finding.severity, finding.code, finding.message, finding.path, finding.line
            self._write(_FINDING, its)

    def in_order(self) -> Iterator[ImageRow]:
        """The images in the order of their paths."""
        self._flush()
        for row in self._database.execute("SELECT * FROM image ORDER BY path"):
            yield ImageRow._make((*row[:-1], json.loads(row[-1])))

    def remember(self, image: ImageRow, image_id: int) -> None:
        """`image` has the row `image_id`, which is where findings in it or in its label belong."""
        self._write(_PLACE, (image.path, image_id))
        if image.label_path:
            self._write(_PLACE, (image.label_path, image_id))

    def findings(self) -> Iterator[FindingRow]:
        """Errors first, in the order in which they were found, with the images that were remembered."""
        self._flush()
        for row in self._database.execute(_FOUND):
            yield FindingRow(*row)

    def _write(self, statement: str, row: tuple[Any, ...]) -> None:
        waiting = self._waiting[statement]
        waiting.append(row)
        if len(waiting) >= _WRITTEN_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self._database.execute("BEGIN")
        for statement, rows in self._waiting.items():
            self._database.executemany(statement, rows)
            rows.clear()
        self._database.execute("COMMIT")
