"""What the page of a job shows. Everything is put into words here; the templates only lay it out."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby, islice
from typing import Any

from django.contrib.auth.models import AbstractUser
from django.utils import timezone
from django.utils.translation import gettext as _
from pydantic import ValidationError

from apps.jobs import downloads, selectors, services
from apps.jobs.admin import actions, cells, curves, logs, words
from apps.jobs.environment import build_environment
from apps.jobs.ingest import is_own_key
from apps.jobs.models import Attempt, Event, Job, StatusChange
from apps.jobs.states import EndReason
from apps.projects.rights import Right, may
from apps.storage.models import DatasetVersion
from trainer.contract.tasks import MAIN_METRICS, TaskType
from trainer.contract.variables import in_words

_EVENTS = 50
# The last words of an ended trainer, and what the executor found, come in within this time.
_AFTERGLOW = timedelta(minutes=2)


@dataclass(frozen=True)
class EventLine:
    """An event, or a run of heartbeats in one line."""

    seq: int
    at: datetime
    type: str
    text: str


def live_context(job: Job, attempt: Attempt | None, person: AbstractUser, have: dict[str, str]) -> dict[str, Any]:
    """What changes while a job runs. `have` tells which state of the heavy parts the browser has already."""
    tail = logs.tail(attempt)
    log_version = f"{attempt.pk if attempt else 0}-{tail.size}"
    fresh_curves = have.get("curves") != curves.version(attempt)
    stored = list(selectors.artifacts(attempt)) if attempt else []
    pictures = [each for each in stored if downloads.is_picture(each)]
    return {
        "job": job,
        "attempt": attempt,
        "live": is_live(job),
        "state_label": cells.state_label(job),
        "version_url": cells.version_url(job),
        "progress_bar": cells.progress_bar(job) if job.active else "",
        "progress_words": cells.progress_words(job),
        "offered": actions.offered(job, may_train=may(person, Right.TRAIN, job.project)),
        "facts": list(_facts(job, attempt)),
        "why": words.why(job),
        "advice": advice(job),
        "charts": curves.charts(),
        "curves": curves.curves(attempt) if fresh_curves else None,
        "log": tail if have.get("log") != log_version else None,
        "log_version": log_version,
        "events": list(islice(_event_lines(attempt), _EVENTS)),
        "missing_events": selectors.missing_events(attempt) if attempt else 0,
        "attempts": [(each, how_it_ended(each), run_url(each)) for each in job.attempts.all()],
        "pictures": pictures,
        "artifacts": stored,
        "history": [(change, _reason(change)) for change in job.status_changes.all()],
    }


def static_context(job: Job, attempt: Attempt | None) -> dict[str, Any]:
    """What stays as it is from the moment the job was made."""
    return {
        "settings": [
            (Job._meta.get_field(name).verbose_name, _shown(job, name))  # type: ignore[union-attr]
            for name in services.TRAINING_FIELDS
            if name != "hyperparameters"
        ],
        "hyperparameters": job.hyperparameters,
        "dataset_facts": list(_dataset_facts(job.dataset_version)),
        "trainer_environment": _environment(job, attempt),
    }


def chosen_attempt(job: Job, wanted: str) -> Attempt | None:
    """The attempt by its number, the current one unless another is named."""
    number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 9 else job.attempt_number
    return job.attempts.filter(number=number).first()


def is_live(job: Job) -> bool:
    """Whether the page has anything to wait for."""
    return not job.ended or (job.ended_at is not None and timezone.now() - job.ended_at < _AFTERGLOW)


def advice(job: Job) -> str:
    """What the end of a job says beyond its first line."""
    return job.end_message.partition("\n")[2] if job.ended else ""


def main_metrics(job: Job) -> dict[str, str]:
    """Short names of what counts for the job's task, by ultralytics' names."""
    return MAIN_METRICS[TaskType(job.task_type)]


def how_it_ended(attempt: Attempt) -> str:
    if attempt.ended_at is None:
        return _("has not been seen to end")
    if attempt.signal is not None:
        return _("signal %(signal)s") % {"signal": attempt.signal}
    if attempt.exit_code is not None:
        return _("exit code %(code)s") % {"code": attempt.exit_code}
    return _("ended")


def run_url(attempt: Attempt) -> str | None:
    from apps.jobs import tracking  # loads the tracking client, which the list of jobs can do without

    return tracking.run_url(attempt)


def _facts(job: Job, attempt: Attempt | None) -> Iterator[tuple[str, str]]:
    """The panel: a label and a few words each."""
    if job.active:
        yield _("Phase"), job.phase or _("starting")
    yield _("Epoch"), f"{job.epoch}/{job.epochs}"
    if job.active:
        yield _("Time left"), words.left(job) or words.NOTHING
    yield _("Last seen"), words.ago(job.last_message_at)
    yield _("Duration"), _ran_for(job)
    yield _("Best epoch"), str(job.best_epoch or words.NOTHING)
    for name, label in main_metrics(job).items():
        yield label, words.score(job.best_metrics.get(name))
    yield _("Attempt"), str(attempt.number) if attempt else _("none yet")
    if attempt:
        yield _("Node"), attempt.node or words.NOTHING
        yield _("Device"), _device(attempt)
    yield _("Owner"), job.created_by.get_username() if job.created_by else words.NOTHING


def _dataset_facts(version: DatasetVersion) -> Iterator[tuple[str, str]]:
    """What the version that the job is pinned to holds, in all and by split."""
    for label, counts in ((_("Images"), version.images), (_("Labelled objects"), version.instances)):
        splits = ", ".join(f"{split} {count}" for split, count in counts.items())
        yield label, f"{sum(counts.values())} ({splits})" if splits else words.NOTHING


def _device(attempt: Attempt) -> str:
    leased = _("GPU %(numbers)s") % {"numbers": ", ".join(attempt.devices)} if attempt.devices else ""
    return " · ".join(part for part in (leased, attempt.versions.get("device")) if part) or words.NOTHING


def _reason(change: StatusChange) -> str:
    return str(EndReason(change.reason).label) if change.reason in EndReason.values else change.reason


def _ran_for(job: Job) -> str:
    if job.started_at is None:
        return words.NOTHING
    return words.duration((job.ended_at or timezone.now()) - job.started_at)


def _shown(job: Job, name: str) -> str:
    display = getattr(job, f"get_{name}_display", None)
    return str(display() if display else getattr(job, name)) or words.NOTHING


def _environment(job: Job, attempt: Attempt | None) -> dict[str, Any]:
    """The variables of the trainer with secrets hidden, or the problems that keep it from being launched."""
    try:
        built = build_environment(job, attempt.number if attempt else job.attempt_number + 1)
    except ValidationError as error:
        return {"problems": [in_words(each) if each["loc"] else each["msg"] for each in error.errors()]}
    return {"variables": sorted(built.masked().items())}


def _event_lines(attempt: Attempt | None) -> Iterator[EventLine]:
    """Newest first. Heartbeats in a row say the same, so that the last of them stands for all."""
    if attempt is None:
        return
    newest = Event.objects.filter(attempt=attempt).select_related("attempt__job").order_by("-seq")[: 20 * _EVENTS]
    for kind, run in groupby(newest, key=lambda event: event.type):
        if kind != "progress":
            yield from (EventLine(each.seq, each.at, each.type, in_few_words(each)) for each in run)
            continue
        beats = list(run)
        times = _(" (%(n)d heartbeats)") % {"n": len(beats)} if len(beats) > 1 else ""
        yield EventLine(beats[0].seq, beats[0].at, kind, in_few_words(beats[0]) + times)


def in_few_words(event: Event) -> str:
    said = event.data
    match event.type:
        case "started":
            return _("on %(host)s, %(device)s") % {"host": said.get("host"), "device": said.get("device")}
        case "progress":
            done = "" if said.get("fraction") is None else words.percent(said["fraction"])
            return " ".join(str(part) for part in (said.get("phase"), done, said.get("note")) if part)
        case "epoch":
            name, label = next(iter(main_metrics(event.attempt.job).items()))
            score = words.score(said.get("metrics", {}).get(name))
            return f"{said.get('epoch')}/{said.get('epochs')}, {label} {score}"
        case "artifact":
            stored = f"{said.get('kind')} {said.get('name')}"
            if is_own_key(event.attempt, str(said.get("key"))):
                return stored
            return _("%(stored)s is not taken: its key %(key)s is none of this attempt's") % {
                "stored": stored,
                "key": said.get("key"),
            }
        case "failed":
            return f"{said.get('reason')}: {said.get('message')}"
        case "finished":
            told = {"n": said.get("epochs"), "time": words.duration(timedelta(seconds=said.get("seconds", 0)))}
            return (_("%(n)s epochs in %(time)s") % told + f" {said.get('note', '')}").strip()
        case "interrupted":
            return _("by %(by)s") % {"by": said.get("by")}
    return ""
