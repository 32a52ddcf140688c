"""What a version's statistics look like: rows with a name, a bar and a number. (`trainer.dataset.statistics`)"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from apps.storage.admin import words
from apps.storage.admin.drawing import name_of
from apps.storage.models import DatasetVersion

FIRST_ROWS = 15
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Part:
    """A piece of a bar, in hundredths of the longest one. `split` colours it."""

    split: str
    start: float
    width: float


@dataclass(frozen=True)
class Row:
    label: str
    parts: list[Part]
    number: str
    url: str = ""


@dataclass(frozen=True)
class Chart:
    """`rest` are the rows beyond the first, shown when asked for."""

    id: str
    title: str
    first: list[Row]
    rest: list[Row] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    note: str = ""


def of(version: DatasetVersion) -> list[Chart]:
    """Those there is something to draw for."""
    said: Mapping[str, Any] = version.statistics
    charts = [_classes(version, said)]
    sizes = [(f"{each['width']} × {each['height']}", each["images"]) for each in said.get("image_sizes", ())]
    charts.append(_plain("sizes", _("Commonest picture sizes"), sizes))
    charts.append(_binned("megapixels", _("Pictures by megapixels"), said.get("image_megapixels"), _number))
    charts.append(_binned("areas", _("Objects by their share of the picture"), said.get("object_areas"), _percent))
    charts.append(_plain("pixels", _("Objects by their size"), _pixels(said.get("object_pixels", {}))))
    charts.append(_binned("aspects", _("Objects by width : height"), said.get("object_aspects"), _number))
    charts.append(_binned("per-image", _("Pictures by number of objects"), said.get("objects_per_image"), _number))
    return [chart for chart in charts if chart.first]


def _classes(version: DatasetVersion, said: Mapping[str, Any]) -> Chart:
    listed = said.get("classes", [])
    gallery = reverse("admin:storage_datasetversion_gallery", args=[version.pk])
    longest = max((sum(each["instances"].values()) for each in listed), default=0)
    rows = [
        Row(
            name_of(each["id"], version.class_names),
            _parts(each["instances"], longest),
            words.thousands(sum(each["instances"].values())),
            f"{gallery}?class={each['id']}",
        )
        for each in listed
    ]
    splits = [split for split in _SPLITS if any(split in each["instances"] for each in listed)]
    title = _("Objects of each class") if said.get("object_pixels") and _objects(said) else _("Pictures of each class")
    return Chart("classes", title, rows[:FIRST_ROWS], rows[FIRST_ROWS:], splits, _unused(version, said))


def _objects(said: Mapping[str, Any]) -> int:
    return sum(said["object_pixels"].values())


def _unused(version: DatasetVersion, said: Mapping[str, Any]) -> str:
    """The classes that the chart does not have."""
    if said.get("classes_left_out"):
        left_out = said["classes_left_out"]
        return ngettext("%(n)s more class is not drawn.", "%(n)s more classes are not drawn.", left_out) % {
            "n": left_out
        }
    used = {each["id"] for each in said.get("classes", ())}
    unused = [name for class_id, name in enumerate(version.class_names) if class_id not in used]
    if not unused or not used:
        return ""
    shown = ", ".join(unused[:20]) + (" …" if len(unused) > 20 else "")
    text = ngettext("%(n)s class never occurs: %(names)s", "%(n)s classes never occur: %(names)s", len(unused))
    return text % {"n": len(unused), "names": shown}


def _plain(name: str, title: str, counted: Iterable[tuple[str, int]]) -> Chart:
    rows = list(counted)
    longest = max((number for _label, number in rows), default=0)
    if not longest:
        return Chart(name, title, [])
    drawn = [Row(label, _parts({"": number}, longest), words.thousands(number)) for label, number in rows]
    return Chart(name, title, drawn[:FIRST_ROWS], drawn[FIRST_ROWS:])


def _binned(name: str, title: str, histogram: Mapping[str, Any] | None, said: Any) -> Chart:
    """Empty ends are left out, empty middles are not."""
    if not histogram:
        return Chart(name, title, [])
    labels = _bins(histogram["edges"], said)
    counted = list(zip(labels, histogram["counts"], strict=True))
    while counted and not counted[-1][1]:
        counted.pop()
    first = next((index for index, (_label, number) in enumerate(counted) if number), 0)
    return _plain(name, title, counted[first:])


def _bins(edges: Sequence[float], said: Any) -> list[str]:
    """A name for each bin: up to an edge, between two, above the last."""
    whole = all(edge == int(edge) for edge in edges)
    names = [f"≤ {said(edges[0])}" if edges[0] else said(edges[0])]
    for low, high in pairwise(edges):
        start = low + 1 if whole else low
        names.append(said(high) if start == high else f"{said(start)} – {said(high)}")
    return [*names, f"> {said(edges[-1])}"]


def _pixels(numbers: Mapping[str, int]) -> list[tuple[str, int]]:
    labels = {
        "small": _("small, up to 32 × 32 px"),
        "medium": _("medium, up to 96 × 96 px"),
        "large": _("large"),
    }
    return [(labels[name], number) for name, number in numbers.items() if name in labels]


def _parts(by_split: Mapping[str, int], longest: int) -> list[Part]:
    parts, start = [], 0.0
    for split in sorted(by_split, key=lambda name: _SPLITS.index(name) if name in _SPLITS else len(_SPLITS)):
        width = by_split[split] * 100 / max(longest, 1)
        parts.append(Part(split if split in _SPLITS else "", round(start, 2), round(width, 2)))
        start += width
    return parts


def _number(value: float) -> str:
    return f"{value:g}"


def _percent(value: float) -> str:
    return f"{value * 100:g} %"
