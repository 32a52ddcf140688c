"""A version's pages: what it holds and what was found in it, its pictures, and how it differs from another."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.forms import Media
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
from django.urls import URLPattern, path, reverse
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _

from apps.projects.admin import RightsAdmin, person_of
from apps.projects.rights import Right, may
from apps.storage import findings, versions
from apps.storage.admin import comparing, gallery, pictures, seeing, thumbnails, words
from apps.storage.errors import NotPermittedError, StorageError
from apps.storage.models import DatasetVersion
from apps.storage.selectors import datasets_of
from trainer.store import StoreError


@admin.register(DatasetVersion)
class VersionAdmin(RightsAdmin):
    """Versions are frozen: all of this is for reading, but for the button that deletes one."""

    @property
    def media(self) -> Media:
        media: Media = super().media + Media(js=["trainyard/console.js", "trainyard/gallery.js"])
        return media

    def project_of(self, obj: Any) -> Any:
        return obj.dataset.project

    def get_queryset(self, request: HttpRequest) -> QuerySet[DatasetVersion]:
        seen = datasets_of(person_of(request)).order_by()
        return DatasetVersion.objects.filter(dataset__in=seen).select_related("dataset__project", "created_by")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False  # the verb does it, which takes the store's part with it

    def get_urls(self) -> list[URLPattern]:
        def at(address: str, view: Any, name: str, *, kept: bool = False) -> URLPattern:
            """`kept`: a browser may keep the answer as long as the view says."""
            wrapped = self.admin_site.admin_view(view, cacheable=kept)
            pattern: URLPattern = path(address, wrapped, name=f"storage_datasetversion_{name}")
            return pattern

        image = "<int:version_id>/images/<int:image_id>/"
        return [
            at("<int:version_id>/gallery/", self.gallery_view, "gallery"),
            at("<int:version_id>/compare/", self.compare_view, "compare"),
            at("<int:version_id>/findings.csv", self.csv_view, "csv"),
            at("<int:version_id>/remove/", self.remove_view, "remove"),
            at(image, self.image_view, "image"),
            at(image + "<int:side>.jpg", pictures.small, "small", kept=True),
            at(image + "original", pictures.original, "original", kept=True),
            *super().get_urls(),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        return redirect("admin:storage_dataset_changelist")

    # --- the pages ----------------------------------------------------------------------------------------------------
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        version = self._version(request, gallery.number(object_id) or 0)
        return self._page(request, "page", version, seeing.overview(version))

    def gallery_view(self, request: HttpRequest, version_id: int) -> HttpResponse:
        version = self._version(request, version_id)
        return self._page(request, "gallery", version, seeing.grid(version, request.GET))

    def image_view(self, request: HttpRequest, version_id: int, image_id: int) -> HttpResponse:
        image = pictures.image_or_404(request, version_id, image_id)
        context = seeing.one(image, gallery.Wanted.of(request.GET))
        return self._page(request, "image", image.version, {**context, "side": thumbnails.PREVIEW})

    def compare_view(self, request: HttpRequest, version_id: int) -> HttpResponse:
        version = self._version(request, version_id)
        return self._page(request, "compare", version, comparing.context(version, request.GET))

    def csv_view(self, request: HttpRequest, version_id: int) -> HttpResponseBase:
        version = self._version(request, version_id)
        asked = {name: gallery.word(request.GET.get(name, "")) for name in ("severity", "code")}
        response = StreamingHttpResponse(
            findings.findings_csv(version, **asked), content_type="text/csv; charset=utf-8"
        )
        name = f"{version.dataset.name} v{version.number} findings.csv"
        response["Content-Disposition"] = content_disposition_header(True, name) or ""
        return response

    def remove_view(self, request: HttpRequest, version_id: int) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        version = self._version(request, version_id)
        told = str(version)
        try:
            versions.delete_version(version, person_of(request))
        except NotPermittedError as error:
            raise PermissionDenied(str(error)) from error
        except (StorageError, StoreError) as error:
            messages.error(request, str(error))
            return redirect("admin:storage_datasetversion_change", version_id)
        messages.success(request, _("%(version)s is deleted.") % {"version": told})
        return redirect("admin:storage_dataset_change", version.dataset_id)

    # --- what they share ----------------------------------------------------------------------------------------------
    def _version(self, request: HttpRequest, version_id: int) -> DatasetVersion:
        if version_id > 2**62:
            raise Http404
        return get_object_or_404(self.get_queryset(request), pk=version_id)

    def _page(self, request: HttpRequest, name: str, version: DatasetVersion, context: dict[str, Any]) -> HttpResponse:
        person, project = person_of(request), version.dataset.project
        shown = {
            **self.admin_site.each_context(request),
            "title": str(version),
            "media": self.media,
            "version": version,
            "tab": name,
            "header": words.header(version),
            "may_train": version.trainable and may(person, Right.TRAIN, project),
            "may_delete": may(person, Right.MANAGE, project),
            "train_url": reverse("admin:jobs_job_add")
            + f"?project={project.pk}&dataset={version.dataset_id}&version={version.number}",
            **context,
        }
        return TemplateResponse(request, f"admin/storage/datasetversion/{name}.html", shown)
