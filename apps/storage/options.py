"""What an import can be told: in which format the data is, and how much of it validates."""

from typing import Any

from django.utils.translation import gettext as _

VAL_SHARE = 0.2


def checked_options(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The options with their defaults, and what is wrong with them by name."""
    from apps.storage.formats import FORMATS

    problems = {name: [_("is not an option of an import")] for name in set(given) - {"format", "val_share"}}
    chosen = {"format": given.get("format") or None, "val_share": given.get("val_share", VAL_SHARE)}
    if chosen["format"] is not None and chosen["format"] not in FORMATS:
        problems["format"] = [_("must be one of: %(names)s") % {"names": ", ".join(FORMATS)}]
    share = chosen["val_share"]
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        problems["val_share"] = [_("must be a number between 0 and 1")]
    return chosen, problems
