"""Watching a job from a terminal."""

import time
from collections.abc import Iterator

from django.utils.translation import gettext as _
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from apps.jobs import selectors
from apps.jobs.models import Attempt, Job
from apps.jobs.states import State
from apps.jobs.tracking import run_url
from apps.storage.stores import get_store
from trainer.contract.tasks import MAIN_METRICS, TaskType

_STYLE = {State.SUCCEEDED: "green", State.FAILED: "red", State.CANCELLED: "yellow", State.LOST: "red"}


def snapshots(job_id: int, seconds: float = 0.5) -> Iterator[Job]:
    """The job as it is now, again and again until it has ended."""
    while True:
        job = Job.objects.select_related("project", "dataset_version__dataset").get(pk=job_id)
        yield job
        if job.ended:
            return
        time.sleep(seconds)


def follow(job_id: int, console: Console) -> Job:
    """Show a live line until the job ends; on anything but a terminal, a line whenever something changed."""
    if not console.is_terminal:
        return _follow_in_lines(job_id, console)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        for job in snapshots(job_id):
            live.update(progress_line(job), refresh=True)
    return job


def _follow_in_lines(job_id: int, console: Console) -> Job:
    shown = None
    for job in snapshots(job_id):
        news = (job.state, job.epoch, job.phase)
        if news != shown:
            console.print(progress_line(job), soft_wrap=True)
            shown = news
    return job


def progress_line(job: Job) -> Text:
    """State, epoch, share, ETA, losses, scores: `running · epoch 7/12 · 58 % · ETA 0:42 · box 1.2 · mAP50 0.71`."""
    parts = [f"{_('job')} {job.pk}", job.get_state_display().lower()]
    if job.state == State.QUEUED and job.pending_reason:
        parts.append(job.pending_reason)
    if job.active:
        parts.append(job.phase or _("starting"))
    if job.epoch or job.fraction:
        parts.append(f"{_('epoch')} {job.epoch}/{job.epochs}")
        parts.append(f"{job.fraction:.0%}")
    if job.eta is not None:
        minutes, seconds = divmod(int(job.eta.total_seconds()), 60)
        parts.append(f"ETA {minutes}:{seconds:02d}")
    parts += [f"{name.removesuffix('_loss')} {value:.2f}" for name, value in job.losses.items() if value is not None]
    parts += [f"{label} {value:.3f}" for label, value in job.best_scores if value is not None]
    return Text(" · ".join(parts), style=_STYLE.get(State(job.state), ""))


def report(job: Job, console: Console) -> None:
    """What came out: the epochs, and where everything lies."""
    attempt = job.current_attempt
    if attempt is not None:
        console.print(_epochs(attempt))
        for what, where in _places(attempt).items():
            console.print(f"{what:16} {where}", soft_wrap=True, highlight=False)
    if job.end_message:
        console.print(job.end_message, style="red" if job.state == State.FAILED else "")


def _epochs(attempt: Attempt) -> Table:
    """The training losses, whichever the task has, and the task's main metrics."""
    rows = list(selectors.epoch_metrics(attempt))
    losses = dict.fromkeys(name for row in rows for name in row.metrics if name.startswith("train/"))
    columns = {name: name.removeprefix("train/").removesuffix("_loss") for name in losses}
    columns |= MAIN_METRICS[TaskType(attempt.job.task_type)]
    table = Table(title=str(attempt.job))
    for title in ("epoch", "seconds", *columns.values()):
        table.add_column(title, justify="right")
    for row in rows:
        values = [row.metrics.get(name) for name in columns]
        table.add_row(str(row.epoch), f"{row.seconds:.1f}", *("–" if v is None else f"{v:.3f}" for v in values))
    return table


def _places(attempt: Attempt) -> dict[str, str]:
    """Where everything lies, by what it is."""
    store = get_store()
    artifacts = list(selectors.artifacts(attempt))
    places = {f"{a.kind} checkpoint": store.uri(a.key) for a in artifacts if a.kind in ("best", "last")}
    if plots := [a for a in artifacts if a.kind == "plot"]:
        places[_("%(count)s plots") % {"count": len(plots)}] = store.uri(plots[0].key).rpartition("/")[0]
    places[_("log")] = attempt.log_location
    if url := run_url(attempt):
        places[_("MLflow run")] = f"{attempt.mlflow_run_id}  {url}"
    return places
