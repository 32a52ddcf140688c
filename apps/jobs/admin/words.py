"""Times, shares and reasons in the words an operator uses."""

from datetime import datetime, timedelta

from django.utils import timezone
from django.utils.translation import gettext as _

from apps.jobs.models import Job
from apps.jobs.states import State

NOTHING = "–"


def duration(time: timedelta) -> str:
    """`45 s`, `3 min`, `2 h 5 min`, `3 d 4 h`: two units at most."""
    seconds = max(int(time.total_seconds()), 0)
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, left = divmod(rest, 60)
    if days:
        return _("%(days)d d %(hours)d h") % {"days": days, "hours": hours}
    if hours:
        return _("%(hours)d h %(minutes)d min") % {"hours": hours, "minutes": minutes}
    if minutes:
        return _("%(minutes)d min") % {"minutes": minutes}
    return _("%(seconds)d s") % {"seconds": left}


def ago(moment: datetime | None) -> str:
    if moment is None:
        return NOTHING
    passed = timezone.now() - moment
    if passed < timedelta(seconds=2):
        return _("just now")
    return _("%(duration)s ago") % {"duration": duration(passed)}


def left(job: Job) -> str:
    """How long the trainer expects to need yet; empty where it cannot be told."""
    if job.eta is None or job.state == State.LOST:
        return ""
    if job.eta < timedelta(seconds=1):
        return _("nearly done")
    return _("%(duration)s left") % {"duration": duration(job.eta)}


def percent(fraction: float) -> str:
    return f"{min(max(fraction, 0.0), 1.0):.0%}".replace("%", " %")


def score(value: float | None) -> str:
    """A metric with three digits, or a dash where it is unknown or not a number."""
    return NOTHING if value is None else f"{value:.3f}"


_MEASURED_ON = {"(B)": "", "(M)": "mask ", "(P)": "pose "}


def metric(name: str) -> str:
    """ultralytics' name of a metric or loss, shorter: `metrics/mAP50(M)` is mask mAP50, `train/box_loss` is box."""
    short = name.partition("/")[2] or name
    for mark, thing in _MEASURED_ON.items():
        if short.endswith(mark):
            return thing + short.removesuffix(mark)
    return short.removesuffix("_loss").replace("accuracy_top", "top-")


def number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.5g}"


def why(job: Job) -> str:
    """In one sentence, why the job waits, is in trouble or did not succeed; empty where all is well."""
    match job.state:
        case State.QUEUED:
            return job.pending_reason or _("Waits to be looked at by the scheduler.")
        case State.LOST:
            return _("Silent, and nothing is known of its trainer. It may speak again.")
        case State.CANCELLING:
            return _("Was asked to stop and is saving its last checkpoint.")
        case State.FAILED:
            first = job.end_message.partition("\n")[0]
            return f"{job.get_end_reason_display()}: {first}" if first else job.get_end_reason_display()
        case State.SUCCEEDED | State.CANCELLED:
            return job.end_message.partition("\n")[0]
    return ""
