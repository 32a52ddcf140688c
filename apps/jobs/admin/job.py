"""The list of jobs, the form for a new one, and the page of each."""

from typing import Any, cast

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, Model, QuerySet
from django.forms import Media
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.forms import AdminForm
from unfold.views import ChangeList

from apps.jobs import leftovers
from apps.jobs.admin import actions, live, page
from apps.jobs.admin.cells import JobCells
from apps.jobs.admin.filters import ModelFilter
from apps.jobs.admin.forms import FIELDSETS, JobForm, values_of
from apps.jobs.errors import NotAllowedError
from apps.jobs.models import Job
from apps.jobs.selectors import jobs_of
from apps.jobs.states import ENDED, State
from apps.projects.admin import ProjectFilter, person_of
from apps.projects.rights import Right, projects_of
from trainer.contract.tasks import MODELS


class JobList(ChangeList):
    """Unfold's list. Nothing is left out of it unless somebody searches or filters."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not (self.query or self.has_active_filters):
            self.full_result_count = self.result_count


ROWS_HEADER = "X-Trainyard-Rows"


@admin.register(Job)
class JobAdmin(JobCells):
    list_display = (
        "name_and_project",
        "state_and_why",
        "model_and_data",
        "progress",
        "best",
        "seen",
        "owner",
    )
    list_filter = (
        ("state", ChoicesDropdownFilter),
        ProjectFilter,
        ("task_type", ChoicesDropdownFilter),
        ModelFilter,
    )
    list_filter_submit = True
    list_fullwidth = True
    list_per_page = 50
    show_full_result_count = False
    search_fields = ("=id", "name", "model_name", "dataset_version__dataset__name", "project__name")
    search_help_text = gettext_lazy("Search by id, name, model or dataset")
    actions = (actions.cancel_selected, actions.retry_selected, actions.clone_selected)
    change_list_template = "admin/jobs/job/change_list.html"
    add_form_template = "admin/jobs/job/add_form.html"

    @property
    def media(self) -> Media:
        media: Media = super().media + Media(js=["trainyard/console.js"])
        return media

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        return jobs_of(person_of(request))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return super().get_search_results(request, queryset, search_term.removeprefix("#"))

    def get_urls(self) -> list[URLPattern]:
        return live.urls(self.admin_site.admin_view) + super().get_urls()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        return JobList

    # --- who may ---------------------------------------------------------------------------------------------
    def has_train_permission(self, request: HttpRequest) -> bool:
        """Asked for the bulk actions; the verb itself asks again for each job's own project."""
        return projects_of(person_of(request), Right.TRAIN).exists()

    has_add_permission = has_train_permission

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False  # what was asked for stays as it was asked for; the page has buttons for the rest

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return isinstance(obj, Job) and _is_over(obj) and super().has_delete_permission(request, obj)

    # --- the list --------------------------------------------------------------------------------------------
    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        found = super().get_actions(request)
        found.pop("delete_selected", None)
        return found

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        context = {"title": _("Jobs"), "at_work": self._at_work(request), **(extra_context or {})}
        response = super().changelist_view(request, context)
        if ROWS_HEADER in request.headers and isinstance(response, TemplateResponse):
            _reduce_to_news(response, request.headers[ROWS_HEADER])
        return response

    def _at_work(self, request: HttpRequest) -> list[tuple[str, str, int]]:
        """Value, word and number of each state that has not ended: few rows, found by an index."""
        rows = self.get_queryset(request).exclude(state__in=ENDED).order_by().values_list("state")
        counts = dict(rows.annotate(total=Count("pk")))
        return [(state.value, str(state.label), counts[state]) for state in State if counts.get(state)]

    # --- a new job -------------------------------------------------------------------------------------------
    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        original = request.GET.get("clone")
        model = live.job_or_404(request, original) if original else None
        shown = {name: request.GET[name] for name in JobForm.base_fields if name in request.GET}
        initial = {**(values_of(model) if model else {}), **shown}
        form = JobForm(request.POST or None, person=person_of(request), model=model, initial=initial)
        if request.method == "POST" and form.is_valid():
            try:
                job = form.submit()
            except NotAllowedError as error:
                raise PermissionDenied(str(error)) from error
            if job is not None:
                self.log_addition(request, job, [{"added": {}}])
                messages.success(request, _("%(job)s is in the queue.") % {"job": job})
                return redirect(job)
        return self._render_form(request, form, model)

    def _render_form(self, request: HttpRequest, form: JobForm, model: Job | None) -> HttpResponse:
        adminform = AdminForm(cast("Any", form), FIELDSETS, {}, (), model_admin=self)
        context = {
            **self.admin_site.each_context(request),
            "title": _("Clone of job %(id)s") % {"id": model.pk} if model else _("New job"),
            "adminform": adminform,
            "errors": form.errors,
            "models_by_task": {task.value: names for task, names in MODELS.items()},
            "tasks_by_dataset": form.tasks_by_dataset(),
            "media": self.media + adminform.media,
            "inline_admin_formsets": [],
            "is_popup": False,
        }
        response: HttpResponse = self.render_change_form(request, context, add=True)
        return response

    # --- one job ---------------------------------------------------------------------------------------------
    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        job = live.job_or_404(request, object_id)
        attempt = page.chosen_attempt(job, request.GET.get("attempt", ""))
        context = {
            **self.admin_site.each_context(request),
            **page.live_context(job, attempt, person_of(request), {}),
            **page.static_context(job, attempt),
            "title": str(job),
            "opts": self.opts,
            "media": self.media,
            "object": job,
            "may_delete": self.has_delete_permission(request, job),
        }
        return TemplateResponse(request, "admin/jobs/job/page.html", context)

    # --- the end of it ---------------------------------------------------------------------------------------
    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[Any, int], set[Any], list[Any]]:
        """Counts. To list every message of every trainer would take longer than to delete them."""
        jobs = list(objs)
        protected = [str(job) for job in jobs if not self.has_delete_permission(request, job)]
        return [str(job) for job in jobs], {self.opts.verbose_name_plural: len(jobs)}, set(), protected

    def delete_model(self, request: HttpRequest, obj: Job) -> None:
        with transaction.atomic():
            job = Job.objects.select_for_update().get(pk=obj.pk)
            if not _is_over(job):  # somebody retried it meanwhile
                raise PermissionDenied
            references = [*job.attempts.exclude(reference="").values_list("reference", flat=True)]
            job.delete()
            transaction.on_commit(lambda: leftovers.clean_up(references))


def _reduce_to_news(response: TemplateResponse, known: str) -> None:
    """Render the rows alone, less those of ended jobs that the page has: nothing about them changes any more.

    `known` are the ids of those jobs, separated by commas.
    """
    context = cast("dict[str, Any]", response.context_data)
    jobs, had = list(context["cl"].result_list), set(known.split(","))
    context["order"] = ",".join(str(job.pk) for job in jobs)
    context["cl"].result_list = [job for job in jobs if not (job.ended and str(job.pk) in had)]
    response.template_name = "admin/jobs/job/rows.html"


def _is_over(job: Job) -> bool:
    """Ended, and its trainer known to be dead: nothing will be said about it any more."""
    return job.ended and not job.attempts.filter(ended_at=None).exists()
