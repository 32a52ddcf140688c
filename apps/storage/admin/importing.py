"""Data on its way into a dataset, and what came of it, in words."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import AbstractUser
from django.db.models import Count
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from apps.storage.admin import words
from apps.storage.models import Dataset, DatasetImport, DatasetVersion, ImportState, Phase
from apps.storage.uploads import ARCHIVES

# Of the newest version and of the import that is going on, what the list of datasets shows.
NEWEST = ("pk", "number", "images", "errors", "warnings")
PROGRESS = ("state", "phase", "done", "total")
_HISTORY = 20
_VERSIONS = 50
_CARDS = 3
# So long the outcome of an import stays on top of the page.
_NEWS = timedelta(minutes=10)
_IN_BYTES = (Phase.DOWNLOADING, Phase.FETCHING, Phase.STORING)


@dataclass(frozen=True)
class ImportLine:
    """One import as a row, and as the news on top of the page."""

    imp: DatasetImport
    label: SafeString
    sentence: str
    fraction: float | None
    detail: str

    @property
    def edge(self) -> str:
        return words.import_colour(self.imp)

    @property
    def found(self) -> SafeString | str:
        """The errors and warnings of its version, if there are any."""
        version = self.imp.version
        if version is None or not version.errors + version.warnings:
            return ""
        return words.badges(version.errors, version.warnings)

    @property
    def gone(self) -> bool:
        """Whether the version that it made was deleted since then."""
        return self.imp.state == ImportState.SUCCEEDED and self.imp.version is None

    @property
    def size(self) -> str:
        return filesizeformat(self.imp.size) if self.imp.size else words.NOTHING


@dataclass(frozen=True)
class VersionLine:
    version: DatasetVersion
    images: str
    instances: str
    classes: str
    size: str
    digest: SafeString
    badges: SafeString
    jobs: int


def context(dataset: Dataset, person: AbstractUser) -> dict[str, Any]:
    """What changes on a dataset's page while data comes in."""
    imports = [_line(imp) for imp in dataset.imports.select_related("version", "created_by")[:_HISTORY]]
    rows = dataset.versions.select_related("created_by").annotate(jobs_total=Count("jobs")).order_by("-number")
    versions = list(rows[: _VERSIONS + 1])
    unfinished = dataset.imports.filter(created_by_id=person.pk, state=ImportState.UPLOADING)
    return {
        "dataset": dataset,
        "imports": imports,
        "news": _news(imports),
        "unfinished": list(unfinished[:5]),
        "versions": [_version_line(version) for version in versions[:_VERSIONS]],
        "more_versions": len(versions) > _VERSIONS,
        "newest": versions[0] if versions else None,
        "say": _("%(name)s: %(sentence)s") % {"name": imports[0].imp, "sentence": imports[0].sentence}
        if imports
        else "",
    }


def upload_context(dataset: Dataset) -> dict[str, Any]:
    """What the script that uploads has to know. It speaks with the REST API, as anybody else may."""
    import_url = reverse("api:import", args=[UUID(int=0)]).replace(str(UUID(int=0)), "{id}")
    return {
        "imports_url": reverse("api:dataset-imports", args=[dataset.pk]),
        "import_url": import_url,
        "suffixes": ", ".join(ARCHIVES),
        "upload_words": {
            "percent": _("{percent} % · {done} of {size}"),
            "left": _("{time} left"),
            "paused": _("paused"),
            "over": _("Everything has arrived. The import begins."),
            "one": _("One archive at a time, please."),
            "stopped": _("It stopped: {why}"),
            "unreachable": _("The connection broke. Look at the network, then go on."),
            "refused": _("The store refused a part (HTTP {status})."),
            "unreadable": _("The file cannot be read any more. Choose it again to go on."),
        },
    }


def in_short(dataset: Any) -> SafeString | str:
    """The import that is going on, for the list of datasets: its phase and how far it is."""
    if not dataset.import_state:
        return ""
    state = ImportState(dataset.import_state)
    going_on = dataset.import_phase if state == ImportState.RUNNING else ""
    label = Phase(going_on).label if going_on in Phase.values else state.label
    share = _share(dataset.import_done, dataset.import_total)
    percent = "" if share is None or state != ImportState.RUNNING else f" {share:.0%}"
    return format_html('<span class="ty-state ty-state-{}">{}{}</span>', words.colour_of(state), label, percent)


def _news(imports: list[ImportLine]) -> list[ImportLine]:
    """What is going on, or else the outcome of the newest import. The table below has the others."""
    arrived = [line for line in imports if line.imp.state != ImportState.UPLOADING]  # who uploads sees it there
    going = [line for line in arrived if not line.imp.ended]
    return going[:_CARDS] or [line for line in arrived[:1] if _is_news(line)]


def _is_news(line: ImportLine) -> bool:
    """While it is fresh, and as long as its version has errors; never of a version that is deleted."""
    if line.gone:
        return False
    ended = line.imp.ended_at
    fresh = ended is None or timezone.now() - ended < _NEWS
    return fresh or (line.imp.version is not None and not line.imp.version.trainable)


def _line(imp: DatasetImport) -> ImportLine:
    share = _share(imp.done, imp.total) if imp.state == ImportState.RUNNING else None
    return ImportLine(imp, words.import_label(imp), _sentence(imp), share, _detail(imp))


def _sentence(imp: DatasetImport) -> str:
    match imp.state:
        case ImportState.RUNNING:
            return f"{Phase(imp.phase).label} …" if imp.phase in Phase.values else _("Beginning …")
        case ImportState.QUEUED:
            return _("Waits for a worker to begin")
        case ImportState.UPLOADING:
            return _("Is being uploaded")
        case ImportState.SUCCEEDED:
            if imp.version is None:
                return _("Imported; its version was deleted since then")
            said = _("Imported as v%(number)s") if imp.version.trainable else _("Imported as v%(number)s, with errors")
            return said % {"number": imp.version.number}
    return str(imp.get_state_display())


def _detail(imp: DatasetImport) -> str:
    """How far the phase is: `120 of 640 images`, or bytes."""
    if imp.state != ImportState.RUNNING or not imp.total:
        return ""
    shown = filesizeformat if imp.phase in _IN_BYTES else words.thousands
    return _("%(done)s of %(total)s") % {"done": shown(imp.done), "total": shown(imp.total)}


def _share(done: int, total: int) -> float | None:
    return min(done / total, 1.0) if total else None


def _version_line(version: Any) -> VersionLine:
    names = ", ".join(version.class_names[:200])
    return VersionLine(
        version,
        words.by_split(version.images),
        words.by_split(version.instances),
        names,
        filesizeformat(version.size),
        words.short_digest(version.sha256),
        words.badges(version.errors, version.warnings),
        version.jobs_total,
    )
