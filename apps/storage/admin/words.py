"""Numbers and states of datasets in the words a person uses."""

from collections.abc import Mapping
from typing import Any

from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from apps.storage.models import DatasetImport, DatasetVersion, ImportState
from trainer.dataset.layout import SPLITS

NOTHING = "–"
# An import's states in the colours of a job's.
_COLOUR = {
    ImportState.UPLOADING: "running",
    ImportState.QUEUED: "queued",
    ImportState.RUNNING: "running",
    ImportState.SUCCEEDED: "succeeded",
    ImportState.FAILED: "failed",
    ImportState.CANCELLED: "cancelled",
}


def thousands(number: int) -> str:
    """`100 000`, with a space that does not break."""
    return f"{number:,}".replace(",", "\u202f")


def by_split(counts: Mapping[str, int]) -> str:
    """`240: train 192, val 48`, or a dash where nothing was counted."""
    if not counts:
        return NOTHING
    parts = ", ".join(f"{split} {thousands(count)}" for split, count in in_order(counts))
    return f"{thousands(sum(counts.values()))}: {parts}"


def in_order(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """By split, as people name them: a database may give the names back in an order of its own."""
    known = [(split, counts[split]) for split in SPLITS if split in counts]
    return known + [(split, count) for split, count in counts.items() if split not in SPLITS]


def short_digest(sha256: str) -> SafeString:
    return format_html('<code class="ty-code" title="{}">{}</code>', sha256, sha256[:12])


def badges(errors: int, warnings: int) -> SafeString:
    """What a check found, as coloured words; a version without any finding is said to be good."""
    found = []
    if errors:
        text = ngettext("%(n)s error", "%(n)s errors", errors) % {"n": thousands(errors)}
        found.append(format_html('<span class="ty-state ty-state-failed">{}</span>', text))
    if warnings:
        text = ngettext("%(n)s warning", "%(n)s warnings", warnings) % {"n": thousands(warnings)}
        found.append(format_html('<span class="ty-state ty-state-lost">{}</span>', text))
    if not found:
        found.append(format_html('<span class="ty-state ty-state-succeeded">{}</span>', _("no findings")))
    return format_html('<span class="ty-badges">{}</span>', SafeString("".join(found)))


def colour_of(state: str) -> str:
    return _COLOUR[ImportState(state)]


def import_colour(imp: DatasetImport) -> str:
    """Amber where it went through and the version cannot be trained on."""
    return "lost" if imp.version and imp.version.errors else colour_of(imp.state)


def import_label(imp: DatasetImport) -> SafeString:
    with_errors = imp.version is not None and imp.version.errors
    text = _("Imported, with errors") if with_errors else imp.get_state_display()
    return format_html('<span class="ty-state ty-state-{}">{}</span>', import_colour(imp), text)


def kind_title(code: str) -> str:
    """The code of a kind of finding as a heading: `Box empty`."""
    return code.replace("_", " ").capitalize()


def header(version: DatasetVersion) -> dict[str, Any]:
    return {"badges": badges(version.errors, version.warnings), "size": filesizeformat(version.size)}
