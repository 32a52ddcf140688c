"""The metrics of an attempt, sorted into charts and into a table."""

from dataclasses import asdict, dataclass, field
from typing import Any

from django.utils.translation import gettext as _

from apps.jobs import selectors
from apps.jobs.admin import words
from apps.jobs.models import Attempt


@dataclass(frozen=True)
class Curve:
    """`colour` counts within its chart; the validation's twin of a curve is drawn in the same, dashed."""

    label: str
    values: list[float | None]
    colour: int
    dashed: bool


@dataclass
class Chart:
    id: str
    title: str
    curves: list[Curve] = field(default_factory=list)


@dataclass(frozen=True)
class Curves:
    """`data` is for the script, `names` and `rows` are for the table. `version` changes when any of it does."""

    version: str
    data: dict[str, Any]
    names: list[str]
    rows: list[tuple[int, list[str]]]


def charts() -> list[Chart]:
    """The charts of every job, empty: the page has their places before there is anything to draw."""
    return [
        Chart("losses", _("Losses")),
        Chart("quality", _("Quality on the validation images")),
        Chart("rate", _("Learning rate")),
    ]


def curves(attempt: Attempt | None) -> Curves:
    series = selectors.metric_series(attempt) if attempt else []
    drawn = {chart.id: chart for chart in charts()}
    colours: dict[tuple[str, str], int] = {}
    for each in series:
        chart = drawn.get(_chart_of(each.name))
        if chart is None:
            continue
        short = words.metric(each.name)
        colour = colours.setdefault((chart.id, short), len([c for c in colours if c[0] == chart.id]))
        label = f"{each.name.partition('/')[0]} {short}" if chart.id == "losses" else short
        chart.curves.append(Curve(label, each.values, colour, dashed=each.name.startswith("val/")))
    epochs = series[0].epochs if series else []
    rows = [(epoch, [words.number(each.values[index]) for each in series]) for index, epoch in enumerate(epochs)]
    data = {"epochs": epochs, "charts": {chart.id: [asdict(c) for c in chart.curves] for chart in drawn.values()}}
    return Curves(version(attempt), data, [each.name for each in series], rows)


def version(attempt: Attempt | None) -> str:
    """Which state of the metrics this is: an epoch that is repeated has a higher number than before."""
    newest = selectors.epoch_metrics(attempt).order_by("-seq").first() if attempt else None
    return f"{attempt.pk}-{newest.seq}" if attempt and newest else "none"


def _chart_of(name: str) -> str:
    group = name.partition("/")[0]
    return {"train": "losses", "val": "losses", "metrics": "quality", "lr": "rate"}.get(group, "")
