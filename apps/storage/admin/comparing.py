"""Two versions of a dataset beside each other."""

from typing import Any

from django.db.models import Q
from django.http import QueryDict
from django.utils.translation import gettext as _

from apps.storage import versions
from apps.storage.admin import gallery, seeing
from apps.storage.models import DatasetImage, DatasetVersion
from trainer.dataset.layout import has_labels

PAGE = 24


def context(version: DatasetVersion, query: QueryDict) -> dict[str, Any]:
    """What `version` has otherwise than the one named by `with`, the one before it unless another is named."""
    others = list(version.dataset.versions.exclude(pk=version.pk).order_by("-number").only("number", "dataset"))
    other = _chosen(version, query.get("with", ""))
    if other is None:
        return {"others": others, "other": None, "missing": query.get("with", "")}
    old, new = sorted((other, version), key=lambda each: each.number)
    found = versions.diff(old, new)
    change = _change(query.get("change", ""), found)
    tiles, more = _tiles(found, change, gallery.number(query.get("after", "")) or 0) if change else ([], None)
    kinds = [(kind, _labels()[kind], found.counts[kind]) for kind in versions.CHANGES]
    shown = {"change": change, "change_label": _labels()[change] if change else "", "tiles": tiles, "next": more}
    return {"others": others, "other": other, "old": old, "new": new, "kinds": kinds, "diff": found, **shown}


def _chosen(version: DatasetVersion, number: str) -> DatasetVersion | None:
    versions_of_it = version.dataset.versions.exclude(pk=version.pk).select_related("dataset")
    wanted = gallery.number(number)
    if wanted is not None:
        return versions_of_it.filter(number=wanted).first() if wanted < 2**31 else None
    before = versions_of_it.filter(number__lt=version.number).order_by("-number").first()
    return before or versions_of_it.order_by("number").first()


def _labels() -> dict[str, str]:
    return {
        "added": _("Added"),
        "removed": _("Removed"),
        "replaced": _("Picture replaced"),
        "relabelled": _("Labelled anew"),
    }


def _change(asked: str, found: versions.Diff) -> versions.Change | None:
    """The kind of change to list: the one asked for, or else the first of which there are any."""
    return next(
        (kind for kind in versions.CHANGES if kind == asked),
        next((kind for kind in versions.CHANGES if found.counts[kind]), None),
    )


def _tiles(found: versions.Diff, change: versions.Change, after: int) -> tuple[list[dict[str, Any]], int | None]:
    """Each picture, with its state in the old version beside it where it is in both; and where the next page begins."""
    rows = found.images(change).filter(pk__gt=after).order_by("pk")
    rows = rows.select_related("file__shard", "label__shard", "version__dataset").prefetch_related("classes")
    images = list(rows[: PAGE + 1])
    more = images[PAGE - 1].pk if len(images) > PAGE else None
    images = images[:PAGE]
    mine = seeing.tiles(found.old if change == "removed" else found.new, images)
    if change in ("added", "removed"):
        return [{"tile": tile, "was": None} for tile in mine], more
    before = seeing.tiles(found.old, _before(found.old, images))
    by_path, by_file = ({getattr(tile.image, name): tile for tile in before} for name in ("path", "file_id"))
    was = [by_path.get(tile.image.path) or by_file.get(tile.image.file_id) for tile in mine]
    return [{"tile": tile, "was": old} for tile, old in zip(mine, was, strict=True)], more


def _before(old: DatasetVersion, images: list[DatasetImage]) -> list[DatasetImage]:
    """The same pictures in the old version: by their path, and by their bytes where the folder was the label."""
    same = Q(path__in=[image.path for image in images])
    if not has_labels(old.dataset.task_type):
        same |= Q(file__in=[image.file_id for image in images])
    rows = DatasetImage.objects.filter(same, version=old)
    return list(rows.select_related("file__shard", "label__shard").prefetch_related("classes"))
