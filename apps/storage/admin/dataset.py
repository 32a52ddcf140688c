"""The list of datasets, the form for a new one, and the page of each: its versions, and data coming in."""

from typing import Any, cast

from django.contrib import admin, messages
from django.db.models import Model, OuterRef, QuerySet, Subquery
from django.forms import Media
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import ChoicesDropdownFilter

from apps.projects.admin import ProjectFilter, RightsAdmin, person_of
from apps.projects.rights import Right, may, projects_of
from apps.storage.admin import importing, words
from apps.storage.models import GOING, Dataset, DatasetImport, DatasetVersion
from apps.storage.selectors import datasets_of

NOTHING = format_html('<span class="ty-none">{}</span>', words.NOTHING)


@admin.register(Dataset)
class DatasetAdmin(RightsAdmin):
    list_display = ("name_and_project", "task_type", "newest", "image_total", "found", "importing", "train_link")
    list_filter = (ProjectFilter, ("task_type", ChoicesDropdownFilter))
    list_filter_submit = True
    list_fullwidth = True
    search_fields = ("name", "=id", "project__name")
    search_help_text = gettext_lazy("Search by name, id or project")
    fields = ("name", "project", "task_type")
    actions = None
    change_list_template = "admin/storage/dataset/change_list.html"
    add_form_template = "admin/storage/dataset/add_form.html"

    @property
    def media(self) -> Media:
        media: Media = super().media + Media(js=["trainyard/console.js", "trainyard/uploads.js"])
        return media

    def get_queryset(self, request: HttpRequest) -> QuerySet[Dataset]:
        newest = DatasetVersion.objects.filter(dataset=OuterRef("pk")).order_by("-number")
        going = DatasetImport.objects.filter(dataset=OuterRef("pk"), state__in=GOING).order_by("-created_at")
        return datasets_of(person_of(request)).annotate(
            **{f"newest_{name}": Subquery(newest.values(name)[:1]) for name in importing.NEWEST},
            trainable=Subquery(newest.filter(errors=0).values("number")[:1]),
            **{f"import_{name}": Subquery(going.values(name)[:1]) for name in importing.PROGRESS},
        )

    def get_list_display(self, request: HttpRequest) -> Any:
        trains = projects_of(person_of(request), Right.TRAIN).exists()
        return [name for name in self.list_display if trains or name != "train_link"]

    def get_urls(self) -> list[URLPattern]:
        live = self.admin_site.admin_view(self.live_view)
        return [path("<uuid:dataset_id>/live/", live, name="storage_dataset_live"), *super().get_urls()]

    # --- who may ------------------------------------------------------------------------------------------------------
    def has_add_permission(self, request: HttpRequest) -> bool:
        return projects_of(person_of(request), Right.TRAIN).exists()

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False  # what the store holds would be left behind

    # --- a new one, and its name --------------------------------------------------------------------------------------
    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return ("project", "task_type") if obj else ()  # versions and jobs rely on both

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "project":
            mine = projects_of(person_of(request), Right.TRAIN)
            kwargs["queryset"] = mine
            kwargs["initial"] = request.GET.get("project") or (mine[0].pk if len(mine) == 1 else None)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)
        project = form.base_fields.get("project")
        if project is not None:  # projects are made elsewhere, by others
            for name in ("can_add_related", "can_change_related", "can_view_related", "can_delete_related"):
                setattr(project.widget, name, False)
        return form

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        messages.success(request, _("%(dataset)s is there, and waits for its data.") % {"dataset": obj})
        return redirect("admin:storage_dataset_change", obj.pk)

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        return redirect("admin:storage_dataset_change", obj.pk)

    # --- its page -----------------------------------------------------------------------------------------------------
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Its page; with `?rename`, and for what is sent there, the form that changes the name."""
        if "rename" in request.GET:
            context = {"show_save_and_continue": False, "show_save_and_add_another": False, **(extra_context or {})}
            return super().change_view(request, object_id, form_url, context)
        dataset = self._dataset(request, object_id)
        context = {
            **self.admin_site.each_context(request),
            **self._live_context(request, dataset),
            "title": dataset.name,
            "media": self.media,
            "may_rename": self.has_change_permission(request, dataset),
            **importing.upload_context(dataset),
        }
        return TemplateResponse(request, "admin/storage/dataset/page.html", context)

    def live_view(self, request: HttpRequest, dataset_id: str) -> HttpResponse:
        """The parts of the page that changed; the script puts them in place."""
        context = self._live_context(request, self._dataset(request, dataset_id))
        response = TemplateResponse(request, "admin/storage/dataset/parts.html", context)
        response["Cache-Control"] = "no-store"
        return response

    def _live_context(self, request: HttpRequest, dataset: Dataset) -> dict[str, Any]:
        trains = may(person_of(request), Right.TRAIN, dataset.project)
        links = {"train_url": train_url(dataset), "train_label": train_label(dataset)}
        return {**importing.context(dataset, person_of(request)), "may_import": trains, **links}

    def _dataset(self, request: HttpRequest, dataset_id: Any) -> Dataset:
        obj = self.get_object(request, str(dataset_id))
        return cast("Dataset", obj) if obj else get_object_or_404(Dataset.objects.none())

    # --- the list -----------------------------------------------------------------------------------------------------
    @admin.display(description=gettext_lazy("dataset"), ordering="name")
    def name_and_project(self, dataset: Dataset) -> SafeString:
        cell = '<span class="ty-cell"><b>{}</b><small>{}</small></span>'
        return format_html(cell, dataset.name, dataset.project.name)

    @admin.display(description=gettext_lazy("newest version"), ordering="newest_number")
    def newest(self, dataset: Any) -> SafeString | str:
        if not dataset.newest_number:
            return _("no data yet")
        url = reverse("admin:storage_datasetversion_change", args=[dataset.newest_pk])
        return format_html('<a class="ty-link" href="{}">v{}</a>', url, dataset.newest_number)

    @admin.display(description=gettext_lazy("images"))
    def image_total(self, dataset: Any) -> str:
        return words.by_split(dataset.newest_images) if dataset.newest_images else NOTHING

    @admin.display(description=gettext_lazy("check"))
    def found(self, dataset: Any) -> str:
        if not dataset.newest_number:
            return NOTHING
        return words.badges(dataset.newest_errors, dataset.newest_warnings)

    @admin.display(description=gettext_lazy("import"))
    def importing(self, dataset: Any) -> str:
        return importing.in_short(dataset) or NOTHING

    @admin.display(description="")
    def train_link(self, dataset: Any) -> str:
        if not dataset.trainable:
            return NOTHING
        return format_html('<a class="ty-link" href="{}">{}</a>', train_url(dataset), train_label(dataset))


def train_url(dataset: Any) -> str:
    """The form for a job on the dataset, with the version that `train_label` names."""
    url = f"{reverse('admin:jobs_job_add')}?project={dataset.project_id}&dataset={dataset.pk}"
    return f"{url}&version={dataset.trainable}" if _is_older(dataset) else url


def train_label(dataset: Any) -> str:
    """Names the version where it is not the newest one, which has errors then."""
    return _("Train on v%(number)s") % {"number": dataset.trainable} if _is_older(dataset) else _("Train on it")


def _is_older(dataset: Any) -> bool:
    return bool(dataset.trainable) and dataset.trainable != dataset.newest_number
