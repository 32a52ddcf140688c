"""The findings of a version as a table for spreadsheets."""

import csv
from collections.abc import Iterator

from django.db.models import QuerySet
from django.utils.translation import gettext as _

from apps.storage.models import DatasetFinding, DatasetVersion

COLUMNS = ("severity", "kind", "file", "line", "message")
# What spreadsheets take for the beginning of a formula. A tab or carriage return is skipped before they look.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class _Echo:
    """A file whose write returns what it was given, which is how `csv` is made to yield."""

    def write(self, text: str) -> str:
        return text


def findings_of(version: DatasetVersion, *, severity: str = "", code: str = "") -> "QuerySet[DatasetFinding]":
    """Those kept, errors first; of one severity or kind where asked."""
    wanted = {name: value for name, value in (("severity", severity), ("code", code)) if value}
    return version.findings.filter(**wanted).order_by("id")


def findings_csv(version: DatasetVersion, *, severity: str = "", code: str = "") -> Iterator[str]:
    """The rows as text, read as they are asked for; last come the kinds of which not all were kept."""
    writer = csv.writer(_Echo())
    yield writer.writerow(COLUMNS)
    kept: dict[tuple[str, str], int] = {}
    for found in findings_of(version, severity=severity, code=code).iterator(chunk_size=2000):
        kind = found.severity, found.code
        kept[kind] = kept.get(kind, 0) + 1
        yield writer.writerow([_cell(cell) for cell in (*kind, found.path, found.line, found.message)])
    for count in version.finding_counts.all():
        if (severity and count.severity != severity) or (code and count.code != code):
            continue
        left_out = count.number - kept.get((count.severity, count.code), 0)
        if left_out > 0:
            said = _("… and %(number)s more of this kind, which were counted and not kept") % {"number": left_out}
            yield writer.writerow([count.severity, count.code, "", "", said])


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
