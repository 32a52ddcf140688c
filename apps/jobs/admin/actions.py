"""What can be done to jobs here. Each calls a verb of `services` and says what came of it."""

from collections.abc import Callable, Iterable
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from apps.jobs import services
from apps.jobs.errors import JobError
from apps.jobs.models import Job
from apps.jobs.states import MOVES, State
from apps.projects.admin import person_of

Verb = Callable[..., Job]

_NAMED = 20


@admin.action(description=gettext_lazy("Cancel"), permissions=["train"])
def cancel_selected(model_admin: Any, request: HttpRequest, queryset: QuerySet[Job]) -> None:
    done = _each(request, queryset, services.cancel)
    _report(request, done, ngettext("%(n)d job is being cancelled", "%(n)d jobs are being cancelled", len(done)))


@admin.action(description=gettext_lazy("Retry"), permissions=["train"])
def retry_selected(model_admin: Any, request: HttpRequest, queryset: QuerySet[Job]) -> None:
    done = _each(request, queryset, services.retry)
    _report(request, done, ngettext("%(n)d job is queued again", "%(n)d jobs are queued again", len(done)))


@admin.action(description=gettext_lazy("Clone"), permissions=["train"])
def clone_selected(model_admin: Any, request: HttpRequest, queryset: QuerySet[Job]) -> None:
    done = _each(request, queryset, services.clone)
    _report(request, done, ngettext("%(n)d new job is queued", "%(n)d new jobs are queued", len(done)))


def perform(request: HttpRequest, job: Job, verb: Verb, told: str) -> None:
    """Do one thing to one job. `told` is the message where it worked.

    Raises:
        NotAllowedError: which a view turns into a refusal.
    """
    done = verb(job, by=person_of(request))
    messages.success(request, told % {"job": done})


def _each(request: HttpRequest, jobs: Iterable[Job], verb: Verb) -> list[Job]:
    """Those for which it worked; for the others a message says why not."""
    done, refused = [], []
    for job in jobs:
        try:
            done.append(verb(job, by=person_of(request)))
        except JobError as error:
            refused.append(_("Job %(id)s: %(error)s") % {"id": job.pk, "error": error})
    for text in refused[:_NAMED]:
        messages.error(request, text)
    if len(refused) > _NAMED:
        messages.error(request, _("… and %(n)d more.") % {"n": len(refused) - _NAMED})
    return done


def _report(request: HttpRequest, done: list[Job], text: str) -> None:
    if done:
        ids = ", ".join(f"#{job.pk}" for job in done[:_NAMED]) + (" …" if len(done) > _NAMED else "")
        messages.success(request, f"{text % {'n': len(done)}}: {ids}.")


def offered(job: Job, *, may_train: bool) -> dict[str, bool]:
    """Which buttons make sense in the job's state, and to somebody with this right."""
    state = State(job.state)
    return {
        "cancel": may_train and (state == State.QUEUED or State.CANCELLING in MOVES[state]),
        "retry": may_train and job.ended and State.QUEUED in MOVES[state],
        "clone": may_train,
    }
