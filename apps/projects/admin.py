"""Projects in the admin, and the base of every admin page that asks `rights` who may do what."""

from typing import Any, cast

from django.contrib import admin
from django.contrib.auth.models import AbstractUser
from django.db.models import Count, IntegerField, Model, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.filters.admin import DropdownFilter

from apps.projects.models import Membership, Project
from apps.projects.rights import Right, may, projects_of


def person_of(request: HttpRequest) -> AbstractUser:
    """Who asks. The admin lets nobody in who has not signed in."""
    return cast("AbstractUser", request.user)


class RightsAdmin(ModelAdmin):
    """A page whose every permission comes from memberships, not from Django's model permissions.

    `change_right` and `delete_right` are what it takes in the object's project.
    """

    change_right = Right.MANAGE
    delete_right = Right.MANAGE

    def project_of(self, obj: Any) -> Project:
        return cast("Project", obj.project)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return request.user.is_active and request.user.is_staff

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self._holds(request, Right.VIEW, obj)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self._holds(request, self.change_right, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self._holds(request, self.delete_right, obj)

    def _holds(self, request: HttpRequest, right: Right, obj: Model | None) -> bool:
        """Without an object, the question is whether the page exists for this person at all."""
        if obj is None:
            return self.has_module_permission(request)
        return may(person_of(request), right, self.project_of(obj))


class ProjectFilter(DropdownFilter):
    """The projects that the person belongs to, by name."""

    title = _("project")
    parameter_name = "project"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(projects_of(person_of(request)).values_list("pk", "name"))

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(project=self.value()) if self.value() else queryset

    def has_output(self) -> bool:
        return True


class MembershipInline(TabularInline):
    model = Membership
    extra = 0
    verbose_name = _("member")
    verbose_name_plural = _("members")

    def has_view_permission(self, request: HttpRequest, obj: Project | None = None) -> bool:
        return obj is None or may(person_of(request), Right.VIEW, obj)

    def has_add_permission(self, request: HttpRequest, obj: Project | None = None) -> bool:
        return obj is None or may(person_of(request), Right.MANAGE, obj)

    has_change_permission = has_delete_permission = has_add_permission


@admin.register(Project)
class ProjectAdmin(RightsAdmin):
    list_display = ("name", "member_count", "dataset_count", "job_count", "created_at")
    search_fields = ("name", "=id", "description")
    search_help_text = _("Search by name, id or description")
    fieldsets = (
        (None, {"fields": ("name", "description", "id", "experiment_name")}),
        (
            _("Retention"),
            {
                "fields": ("keep_best", "keep_last", "keep_every", "keep_days"),
                "description": _(
                    "Which checkpoints of ended jobs are kept. Others go once a day, those that a waiting or running "
                    "job starts from excepted; plots and results stay. `manage.py retention --dry-run` lists what "
                    "would go."
                ),
            },
        ),
    )
    readonly_fields = ("id", "experiment_name")
    inlines = (MembershipInline,)
    actions = None
    list_fullwidth = True

    def project_of(self, obj: Any) -> Project:
        return cast("Project", obj)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Project]:
        # One subquery each: joins of three relations would multiply their rows.
        return projects_of(person_of(request)).annotate(
            members_total=_count_of("memberships"),
            datasets_total=_count_of("datasets"),
            jobs_total=_count_of("jobs"),
        )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_superuser)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Only an empty one: what datasets and jobs have in the store would be left behind."""
        project = cast("Project | None", obj)
        empty = project is None or not (project.datasets.exists() or project.jobs.exists())
        return empty and super().has_delete_permission(request, obj)

    @admin.display(description=_("members"), ordering="members_total")
    def member_count(self, project: Any) -> int:
        return int(project.members_total)

    @admin.display(description=_("datasets"), ordering="datasets_total")
    def dataset_count(self, project: Any) -> str:
        url = reverse("admin:storage_dataset_changelist")
        return format_html('<a class="ty-link" href="{}?project={}">{}</a>', url, project.pk, project.datasets_total)

    @admin.display(description=_("jobs"), ordering="jobs_total")
    def job_count(self, project: Any) -> str:
        url = reverse("admin:jobs_job_changelist")
        return format_html('<a class="ty-link" href="{}?project={}">{}</a>', url, project.pk, project.jobs_total)

    @admin.display(description=_("MLflow experiment"))
    def experiment_name(self, project: Project) -> str:
        return project.experiment_name


def _count_of(relation: str) -> Coalesce:
    """How many rows of `relation` each project has, counted apart from everything else."""
    field = Project._meta.get_field(relation)
    rows = field.related_model._default_manager.filter(project=OuterRef("pk")).order_by()  # type: ignore[union-attr]
    counted = rows.values("project").annotate(total=Count("pk")).values("total")
    return Coalesce(Subquery(counted, output_field=IntegerField()), 0)
