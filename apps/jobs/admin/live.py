"""The addresses below a job's page: what refreshes it, the buttons, and the downloads. Each checks who asks."""

from collections.abc import Callable
from http import HTTPStatus
from itertools import chain
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseNotAllowed,
    StreamingHttpResponse,
)
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from apps.executor.errors import ExecutorError
from apps.jobs import downloads, selectors, services
from apps.jobs.admin import actions, logs, page
from apps.jobs.errors import JobError, NotAllowedError
from apps.jobs.models import Artifact, Attempt, Job
from apps.projects.admin import person_of
from trainer.store import ObjectMissingError, StoreError

VERBS: dict[str, tuple[actions.Verb, Any]] = {
    "cancel": (services.cancel, gettext_lazy("%(job)s is being cancelled.")),
    "retry": (services.retry, gettext_lazy("%(job)s is queued again.")),
}


def urls(wrap: Callable[..., Any]) -> list[URLPattern]:
    """`wrap` lets in only those who may use the admin at all."""
    return [
        path("<int:job_id>/live/", wrap(live), name="jobs_job_live"),
        path("<int:job_id>/<str:verb>/do/", wrap(do), name="jobs_job_do"),
        path("<int:job_id>/attempts/<int:number>/log/", wrap(download_log), name="jobs_job_log"),
        path("<int:job_id>/artifacts/<int:artifact_id>/", wrap(download), name="jobs_job_artifact"),
    ]


def job_or_404(request: HttpRequest, job_id: int | str) -> Job:
    """The job, where the person may see it. To everybody else there is none."""
    try:
        return get_object_or_404(selectors.jobs_of(person_of(request)), pk=job_id)
    except ValueError as error:
        raise Http404 from error


def live(request: HttpRequest, job_id: int) -> HttpResponse:
    """The parts of the page that changed; the script puts them in place."""
    job = job_or_404(request, job_id)
    attempt = page.chosen_attempt(job, request.GET.get("attempt", ""))
    have = {name: request.GET.get(name, "") for name in ("curves", "log")}
    context = page.live_context(job, attempt, person_of(request), have)
    response = TemplateResponse(request, "admin/jobs/job/parts.html", context)
    response["Cache-Control"] = "no-store"
    return response


def do(request: HttpRequest, job_id: int, verb: str) -> HttpResponse:
    if verb not in VERBS:
        raise Http404
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    job = job_or_404(request, job_id)
    action, told = VERBS[verb]
    try:
        actions.perform(request, job, action, str(told))
    except NotAllowedError as error:
        raise PermissionDenied(str(error)) from error
    except JobError as error:
        messages.error(request, str(error))
    return redirect(job)


def download_log(request: HttpRequest, job_id: int, number: int) -> HttpResponseBase:
    job = job_or_404(request, job_id)
    attempt = get_object_or_404(Attempt, job=job, number=number)
    pieces = logs.whole(attempt)
    try:
        first = next(pieces, b"")
    except ExecutorError as error:
        messages.error(request, _("The log cannot be read: %(error)s") % {"error": error})
        return redirect(job)
    response = StreamingHttpResponse(chain([first], pieces), content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{attempt.name}.log"'
    return response


def download(request: HttpRequest, job_id: int, artifact_id: int) -> HttpResponseBase:
    """An artifact from the store: by a link where the store gives one, else through this process.

    With `?show` a picture is shown in the page instead of being saved.
    """
    job = job_or_404(request, job_id)
    artifact = get_object_or_404(selectors.artifacts_of(job), pk=artifact_id)
    try:
        return downloads.download(artifact, _file_name(artifact), inline="show" in request.GET)
    except ObjectMissingError as error:
        raise Http404(_("The store no longer has %(name)s.") % {"name": artifact.name}) from error
    except StoreError as error:
        return HttpResponse(str(error), status=HTTPStatus.BAD_GATEWAY, content_type="text/plain; charset=utf-8")


def _file_name(artifact: Artifact) -> str:
    return f"job-{artifact.attempt.job_id}-{artifact.name.rpartition('/')[2]}"
