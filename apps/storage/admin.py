"""Datasets and what their versions hold. Versions are frozen, so all of it is for reading."""

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.db.models import Model, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from unfold.admin import TabularInline
from unfold.contrib.filters.admin import ChoicesDropdownFilter

from apps.projects.admin import ProjectFilter, RightsAdmin, person_of
from apps.projects.rights import Right, projects_of
from apps.storage.models import Dataset, DatasetVersion
from apps.storage.selectors import datasets_of


class VersionInline(TabularInline):
    model = DatasetVersion
    fields = readonly_fields = (
        "version",
        "image_counts",
        "instance_counts",
        "class_list",
        "archive",
        "created_at",
        "created_by",
    )
    extra = 0
    can_delete = False
    hide_title = True
    verbose_name_plural = _("versions")

    def get_queryset(self, request: HttpRequest) -> QuerySet[DatasetVersion]:
        return DatasetVersion.objects.select_related("created_by", "dataset")

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    has_change_permission = has_delete_permission = has_add_permission

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return True  # whoever sees the dataset sees its versions

    @admin.display(description=_("version"))
    def version(self, version: DatasetVersion) -> str:
        return f"v{version.number}"

    @admin.display(description=_("images"))
    def image_counts(self, version: DatasetVersion) -> str:
        return by_split(version.images)

    @admin.display(description=_("instances"))
    def instance_counts(self, version: DatasetVersion) -> str:
        return by_split(version.instances)

    @admin.display(description=_("classes"))
    def class_list(self, version: DatasetVersion) -> str:
        names = ", ".join(version.class_names)
        return format_html('<span title="{}">{}</span>', names, _shortened(names))

    @admin.display(description=_("archive"))
    def archive(self, version: DatasetVersion) -> str:
        size, short = filesizeformat(version.size), version.sha256[:12]
        return format_html('{} <code class="ty-code" title="{}">{}</code>', size, version.sha256, short)


@admin.register(Dataset)
class DatasetAdmin(RightsAdmin):
    list_display = ("name", "project", "task_type", "newest", "image_total", "train_link")
    list_filter = (ProjectFilter, ("task_type", ChoicesDropdownFilter))
    list_filter_submit = True
    list_fullwidth = True
    search_fields = ("name", "=id", "project__name")
    search_help_text = _("Search by name, id or project")
    fields = ("name", "project", "task_type", "id", "created_at")
    readonly_fields = ("project", "task_type", "id", "created_at")
    inlines = (VersionInline,)
    actions = None

    def get_queryset(self, request: HttpRequest) -> QuerySet[Dataset]:
        newest = DatasetVersion.objects.filter(dataset=OuterRef("pk")).order_by("-number")
        return datasets_of(person_of(request)).annotate(
            newest_number=Subquery(newest.values("number")[:1]),
            newest_images=Subquery(newest.values("images")[:1]),
        )

    def get_list_display(self, request: HttpRequest) -> Any:
        trains = projects_of(person_of(request), Right.TRAIN).exists()
        return [name for name in self.list_display if trains or name != "train_link"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # data comes in by an import, which checks and packs it

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False  # the archives in the store would be left behind

    @admin.display(description=_("newest version"), ordering="newest_number")
    def newest(self, dataset: Any) -> str:
        return f"v{dataset.newest_number}" if dataset.newest_number else str(_("no data yet"))

    @admin.display(description=_("images"))
    def image_total(self, dataset: Any) -> str:
        return by_split(dataset.newest_images or {})

    @admin.display(description="")
    def train_link(self, dataset: Dataset) -> str:
        url = reverse("admin:jobs_job_add")
        query = f"project={dataset.project_id}&dataset={dataset.pk}"
        return format_html('<a class="ty-link" href="{}?{}">{}</a>', url, query, _("Train on it"))


def by_split(counts: dict[str, int]) -> str:
    """`240: train 192, val 48`, or a dash where nothing was counted."""
    if not counts:
        return "–"
    parts: Iterator[str] = (f"{split} {count}" for split, count in counts.items())
    return f"{sum(counts.values())}: " + ", ".join(parts)


def _shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
