"""Which pictures of a version a page of the gallery shows. Nothing here counts or skips rows.

A version's rows are made in the order of their paths, and so by split. Hence a split is a run of ids, and each
question has an index whose order is that of the ids: a page costs the same wherever it lies.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.db.models import Exists, OuterRef, QuerySet
from django.http import QueryDict

from apps.storage.models import DatasetFinding, DatasetImage, DatasetVersion, ImageClass

PAGE = 48
_MOST = 2**62


@dataclass(frozen=True)
class Wanted:
    """What the gallery is narrowed to."""

    split: str = ""
    class_id: int | None = None
    code: str = ""

    @classmethod
    def of(cls, query: QueryDict) -> "Wanted":
        return cls(word(query.get("split", ""))[:8], number(query.get("class", "")), word(query.get("code", ""))[:40])

    def query(self, **more: Any) -> str:
        """As it stands in an address."""
        given = {"split": self.split, "class": self.class_id, "code": self.code, **more}
        return urlencode({name: value for name, value in given.items() if value not in ("", None)})

    def __bool__(self) -> bool:
        return self != Wanted()


@dataclass(frozen=True)
class Page:
    images: list[DatasetImage]
    before: bool
    after: bool


def number(text: str) -> int | None:
    """A number out of an address, or None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def word(text: str) -> str:
    """A word out of an address, as any database takes it."""
    return text.replace("\0", "")


def page(version: DatasetVersion, wanted: Wanted, query: QueryDict) -> Page:
    """The page that `after`, `before` or `end` of the address names, the first without them."""
    after, before = number(query.get("after", "")), number(query.get("before", ""))
    backwards = before is not None or "end" in query
    limit = before if before is not None else _MOST
    found = _ids(version, wanted, after or 0, limit, PAGE + 1, backwards)
    ids = found[:PAGE]
    more = len(found) > PAGE
    if backwards:
        ids.reverse()
        others = bool(ids) and bool(_ids(version, wanted, ids[-1], _MOST, 1, False))
        return Page(_images(ids), before=more, after=others)
    others = bool(ids) and after is not None and bool(_ids(version, wanted, 0, ids[0], 1, True))
    return Page(_images(ids), before=others, after=more)


def neighbours(image: DatasetImage, wanted: Wanted) -> tuple[int | None, int | None]:
    """The ids of the pictures before and after this one."""
    before = _ids(image.version, wanted, 0, image.pk, 1, True)
    after = _ids(image.version, wanted, image.pk, _MOST, 1, False)
    return next(iter(before), None), next(iter(after), None)


def _images(ids: list[int]) -> list[DatasetImage]:
    rows = DatasetImage.objects.filter(pk__in=ids).select_related("file__shard", "label__shard")
    return list(rows.prefetch_related("classes").order_by("id"))


def _ids(version: DatasetVersion, wanted: Wanted, low: int, high: int, most: int, backwards: bool) -> list[int]:
    """Ids between `low` and `high`, both left out, in their order or from the end."""
    if not wanted.code and wanted.class_id is None:
        return list(_of_splits(version, wanted.split, low, high, most, backwards))
    if wanted.split:
        first, last = _end_of(version, wanted.split, False), _end_of(version, wanted.split, True)
        low, high = max(low, first - 1), min(high, last + 1)
    rows = _driving(version, wanted)
    if wanted.split:
        rows = rows.filter(image__split=wanted.split)
    between = rows.filter(image_id__gt=low, image_id__lt=high).order_by("-image_id" if backwards else "image_id")
    return list(between.values_list("image_id", flat=True).distinct()[:most])


def _driving(version: DatasetVersion, wanted: Wanted) -> QuerySet[Any]:
    """The table whose index finds the pictures. Of findings only so many are kept."""
    classes = ImageClass.objects.filter(version=version)
    if wanted.class_id is not None:
        classes = classes.filter(class_id=wanted.class_id)
    if not wanted.code:
        return classes
    findings = DatasetFinding.objects.filter(version=version, code=wanted.code, image__isnull=False)
    if wanted.class_id is not None:
        findings = findings.filter(Exists(classes.filter(image=OuterRef("image"))))
    return findings


def _of_splits(version: DatasetVersion, split: str, low: int, high: int, most: int, backwards: bool) -> Iterator[int]:
    splits = [split] if split else sorted(version.images, reverse=backwards)
    for each in splits:
        rows = DatasetImage.objects.filter(version=version, split=each, pk__gt=low, pk__lt=high)
        found = list(rows.order_by("-pk" if backwards else "pk").values_list("pk", flat=True)[:most])
        yield from found
        most -= len(found)
        if most <= 0:
            return


def _end_of(version: DatasetVersion, split: str, last: bool) -> int:
    rows = DatasetImage.objects.filter(version=version, split=split).order_by("-pk" if last else "pk")
    return rows.values_list("pk", flat=True).first() or 0
