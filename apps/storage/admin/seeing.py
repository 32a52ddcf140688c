"""What the pages of a version show of its contents. Everything is put into words here; templates lay it out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Exists, OuterRef
from django.http import QueryDict
from django.template.defaultfilters import filesizeformat
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from apps.storage.admin import drawing, gallery, histograms, overlay, words
from apps.storage.models import DatasetFinding, DatasetImage, DatasetVersion, FindingCount
from trainer.dataset.layout import has_labels
from trainer.store import StoreError

_FIRST_FINDINGS = 5  # of each kind
_JOBS = 20
_LISTED_INSTANCES = 500


@dataclass(frozen=True)
class ClassChip:
    name: str
    colour: str
    class_id: int


@dataclass
class Tile:
    """A picture in a grid, with its labels drawn. `severity` is that of its worst finding."""

    image: DatasetImage
    overlay: SafeString | str = ""
    chips: list[ClassChip] = field(default_factory=list)
    left_out: int = 0
    severity: str = ""
    problem: str = ""

    @property
    def name(self) -> str:
        return self.image.path.rpartition("/")[2]


@dataclass(frozen=True)
class Kind:
    """Findings of one code: how many there are, and the first of them."""

    count: FindingCount
    first: list[DatasetFinding]
    in_gallery: bool

    @property
    def number(self) -> str:
        return words.thousands(self.count.number)

    @property
    def title(self) -> str:
        return words.kind_title(self.count.code)

    @property
    def more(self) -> int:
        return self.count.number - len(self.first)


# --- the first page -----------------------------------------------------------------------------------------------
def overview(version: DatasetVersion) -> dict[str, Any]:
    jobs = list(version.jobs.order_by("-pk")[: _JOBS + 1])
    return {
        "facts": _facts(version),
        "kinds": [_kind(version, count) for count in version.finding_counts.all()],
        "histograms": histograms.of(version),
        "jobs": jobs[:_JOBS],
        "more_jobs": len(jobs) > _JOBS,
        "several": version.dataset.versions.exclude(pk=version.pk).exists(),
    }


def _facts(version: DatasetVersion) -> list[tuple[str, str]]:
    points = version.keypoints
    facts = [
        (_("Task"), version.dataset.get_task_type_display()),
        (_("Images"), words.by_split(version.images)),
        (_("Labelled objects"), words.by_split(version.instances)),
        (_("Classes"), words.thousands(len(version.class_names))),
        (_("Size"), filesizeformat(version.size)),
        (_("Imported by"), version.created_by.get_username() if version.created_by else words.NOTHING),
    ]
    if not has_labels(version.dataset.task_type):
        del facts[2]
    if points:
        facts.append((_("Keypoints"), _("%(count)s for each object") % {"count": points["count"]}))
    return facts


def _kind(version: DatasetVersion, count: FindingCount) -> Kind:
    rows = DatasetFinding.objects.filter(version=version, code=count.code, severity=count.severity)
    first = list(rows.order_by("image_id", "id")[:_FIRST_FINDINGS])
    return Kind(count, first, any(each.image_id for each in first))


# --- the gallery --------------------------------------------------------------------------------------------------
def grid(version: DatasetVersion, query: QueryDict) -> dict[str, Any]:
    wanted = gallery.Wanted.of(query)
    page = gallery.page(version, wanted, query)
    shown, problem = _tiles_or_problem(version, page.images)
    counts = list(version.finding_counts.all())
    return {
        "tiles": shown,
        "problem": problem,
        "wanted": wanted,
        "query": wanted.query(),
        "splits": [(split, words.thousands(number)) for split, number in words.in_order(version.images)],
        "classes": _classes(version, wanted),
        "codes": _codes(version, wanted, counts),
        "found": _how_many(version, wanted, counts),
        "before": wanted.query(before=page.images[0].pk) if page.before else "",
        "after": wanted.query(after=page.images[-1].pk) if page.after else "",
        "start": wanted.query(),
        "end": wanted.query(end=1),
        "labels_drawn": has_labels(version.dataset.task_type),
    }


def _how_many(version: DatasetVersion, wanted: gallery.Wanted, counts: Sequence[FindingCount]) -> str:
    """What is known of the number without counting; nothing where filters are combined."""
    if not wanted or wanted == gallery.Wanted(split=wanted.split):
        number = version.images.get(wanted.split, 0) if wanted.split else sum(version.images.values())
        return ngettext("%(n)s image", "%(n)s images", number) % {"n": words.thousands(number)}
    if wanted == gallery.Wanted(code=wanted.code):
        number = sum(count.number for count in counts if count.code == wanted.code)
        text = ngettext("%(n)s finding of this kind", "%(n)s findings of this kind", number)
        return text % {"n": words.thousands(number)}
    return ""


def _classes(version: DatasetVersion, wanted: gallery.Wanted) -> list[tuple[int, str]]:
    """The classes that occur, with the number of their pictures as far as the statistics have it."""
    said = version.statistics
    listed = {each["id"]: sum(each["images"].values()) for each in said.get("classes", ())}
    ids = set(listed)
    if not listed or said.get("classes_left_out"):
        ids.update(range(len(version.class_names)))
    if wanted.class_id is not None:
        ids.add(wanted.class_id)  # what the page is narrowed to has to be seen
    names = {each: Truncator(drawing.name_of(each, version.class_names)).chars(60) for each in sorted(ids)}
    return [
        (each, f"{name} ({words.thousands(listed[each])})" if each in listed else name) for each, name in names.items()
    ]


def _codes(
    version: DatasetVersion, wanted: gallery.Wanted, counts: Sequence[FindingCount]
) -> list[tuple[str, str, str]]:
    """The kinds of findings that have pictures: code, title, number. One row of the index tells of each."""
    pictured = DatasetFinding.objects.filter(version=version, code=OuterRef("code"), image__isnull=False)
    shown = set(version.finding_counts.filter(Exists(pictured)).values_list("code", flat=True)) | {wanted.code}
    numbers: dict[str, int] = {}
    for count in counts:  # a code may stand for errors and for warnings
        if count.code in shown:
            numbers[count.code] = numbers.get(count.code, 0) + count.number
    return [(code, words.kind_title(code), words.thousands(number)) for code, number in numbers.items()]


def tiles(version: DatasetVersion, images: Sequence[DatasetImage]) -> list[Tile]:
    return _tiles_or_problem(version, images)[0]


def _tiles_or_problem(version: DatasetVersion, images: Sequence[DatasetImage]) -> tuple[list[Tile], str]:
    """The tiles, and why their labels could not be read, if so."""
    try:
        shapes, problem = overlay.shapes_of(version, images), ""
    except StoreError as error:
        shapes, problem = {}, _("The labels cannot be shown: %(error)s") % {"error": error}
    severities = _severities(images)
    names = version.class_names
    return [
        Tile(
            image,
            drawing.thumbnail(shapes[image.pk], names, image.width, image.height) if shapes.get(image.pk) else "",
            chips(image, names),
            drawing.left_out(shapes.get(image.pk, ())),
            severities.get(image.pk, ""),
        )
        for image in images
    ], problem


def chips(image: DatasetImage, names: Sequence[str]) -> list[ClassChip]:
    ids = sorted(row.class_id for row in image.classes.all())
    return [ClassChip(drawing.name_of(each, names), drawing.colour_of(each), each) for each in ids]


def _severities(images: Sequence[DatasetImage]) -> dict[int, str]:
    rows = DatasetFinding.objects.filter(image__in=images).values_list("image_id", "severity").distinct()
    # "error" comes before "warning", and the last one put in stays.
    return {pk: severity for pk, severity in sorted(rows, reverse=True) if pk is not None}


# --- one picture --------------------------------------------------------------------------------------------------
def one(image: DatasetImage, wanted: gallery.Wanted) -> dict[str, Any]:
    version, problem = image.version, ""
    try:
        shapes = overlay.shapes_of(version, [image]).get(image.pk, [])
    except StoreError as error:
        shapes, problem = [], _("The labels cannot be shown: %(error)s") % {"error": error}
    before, after = gallery.neighbours(image, wanted)
    names = version.class_names
    listed = [
        (index, drawing.name_of(shape.class_id, names), drawing.colour_of(shape.class_id), _measures(shape, image))
        for index, shape in enumerate(shapes[:_LISTED_INSTANCES])
    ]
    return {
        "image": image,
        "tab": "gallery",
        "overlay": drawing.large(shapes, names, image.width, image.height) if shapes else "",
        "instances": listed,
        "more_instances": len(shapes) - len(listed),
        "chips": chips(image, names),
        "findings": list(image.findings.all()[:200]),
        "problem": problem,
        "before": before,
        "after": after,
        "query": wanted.query(),
        "back": wanted.query(after=image.pk - 1),
        "labels_drawn": has_labels(version.dataset.task_type),
    }


def _measures(shape: drawing.Shape, image: DatasetImage) -> str:
    """Width and height of the object in pixels, and how many of its keypoints are labelled."""
    points = [*shape.outline, *(dot for dot in shape.dots if dot)]
    if not points:
        return ""
    across, down = [x for x, _y in points], [y for _x, y in points]
    width, height = (max(across) - min(across)) * image.width, (max(down) - min(down)) * image.height
    measures = f"{width:.0f} × {height:.0f} px"
    if shape.dots:
        seen = sum(1 for dot in shape.dots if dot)
        measures += " · " + _("%(n)s of %(all)s keypoints") % {"n": seen, "all": len(shape.dots)}
    return measures
