"""Datasets, what their versions hold, and the uploads that make new ones."""

from collections.abc import Iterator
from typing import Any, BinaryIO, cast
from uuid import UUID

from django.db.models import Prefetch, QuerySet
from django.http import Http404, StreamingHttpResponse
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import status
from rest_framework.exceptions import APIException
from rest_framework.generics import ListAPIView, get_object_or_404
from rest_framework.parsers import BaseParser, JSONParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.views import APIView

from apps.jobs.api.attempt_views import AnyMediaType
from apps.jobs.api.dataset_requests import (
    DatasetCreation,
    DiffQuery,
    FindingQuery,
    PartNumbers,
    UploadStart,
)
from apps.jobs.api.filters import DatasetFilter
from apps.jobs.api.pagination import ByName, KeysetPagination
from apps.jobs.api.requests import user_of
from apps.jobs.api.schema import problems
from apps.jobs.api.serializers import (
    ChangedImageSerializer,
    DatasetSerializer,
    DatasetVersionDetailSerializer,
    DiffSerializer,
    FindingSerializer,
    ImportDetailSerializer,
    ImportSerializer,
    PartUrlsSerializer,
)
from apps.projects.rights import Right
from apps.storage import uploads, versions
from apps.storage.datasets import create_dataset
from apps.storage.findings import findings_csv, findings_of
from apps.storage.models import Dataset, DatasetFinding, DatasetImage, DatasetImport, DatasetVersion
from apps.storage.rights import require
from apps.storage.selectors import datasets_of, imports_of

CHANGE = OpenApiParameter("change", str, OpenApiParameter.PATH, enum=list(versions.CHANGES))


class LengthRequired(APIException):
    status_code = status.HTTP_411_LENGTH_REQUIRED
    default_code = "length_required"


class RawBody(BaseParser):
    """The body is read by the view as it arrives, whatever it is."""

    media_type = "application/octet-stream"


class OldestFirst(KeysetPagination):
    orderings = {"id": ("id",), "-id": ("-id",)}


class NewestFirst(KeysetPagination):
    orderings = {"-created_at": ("-created_at", "-pk"), "created_at": ("created_at", "pk")}


def _datasets(request: Request) -> QuerySet[Dataset]:
    shown = DatasetVersion.objects.defer("statistics")
    return datasets_of(request.user).prefetch_related(Prefetch("versions", queryset=shown))


def _dataset(request: Request, pk: UUID) -> Dataset:
    """The dataset, where the caller may see it; 404 where not."""
    return get_object_or_404(datasets_of(request.user), pk=pk)


def _version(request: Request, pk: UUID, number: int) -> DatasetVersion:
    return get_object_or_404(_dataset(request, pk).versions.select_related("dataset__project"), number=number)


def _import(request: Request, pk: UUID) -> DatasetImport:
    return get_object_or_404(imports_of(request.user), pk=pk)


def _upload(request: Request, pk: UUID) -> DatasetImport:
    """An import that the caller may send parts of."""
    imp = _import(request, pk)
    require(user_of(request), Right.TRAIN, imp.dataset)
    return imp


def _shown_import(imp: DatasetImport) -> dict[str, Any]:
    return dict(ImportDetailSerializer(imp).data)


# --- datasets -------------------------------------------------------------------------------------------------------


@extend_schema_view(
    get=extend_schema(
        summary="List datasets", tags=["datasets"], responses={200: DatasetSerializer(many=True), **problems(400)}
    )
)
class DatasetList(ListAPIView[Dataset]):
    """The datasets of your projects, with their versions."""

    queryset = Dataset.objects.none()
    serializer_class = DatasetSerializer
    pagination_class = ByName
    filterset_class = DatasetFilter
    parser_classes = (JSONParser,)

    def get_queryset(self) -> QuerySet[Dataset]:
        return _datasets(self.request)

    @extend_schema(
        summary="Make a dataset",
        description="An empty one: upload an archive into it to make its first version.",
        tags=["datasets"],
        request=DatasetCreation,
        responses={201: DatasetSerializer, **problems(400, 403)},
    )
    def post(self, request: Request) -> Response:
        asked = DatasetCreation(data=request.data, context={"request": request})
        asked.is_valid(raise_exception=True)
        dataset = create_dataset(by=user_of(request), **asked.validated_data)
        address = reverse("api:dataset", args=[dataset.pk], request=request)
        return Response(DatasetSerializer(dataset).data, status=201, headers={"Location": address})


class DatasetDetail(APIView):
    @extend_schema(summary="Show a dataset", tags=["datasets"], responses={200: DatasetSerializer, **problems(404)})
    def get(self, request: Request, pk: UUID) -> Response:
        return Response(DatasetSerializer(get_object_or_404(_datasets(request), pk=pk)).data)


# --- versions -------------------------------------------------------------------------------------------------------


class VersionDetail(APIView):
    @extend_schema(
        summary="Show a version",
        tags=["datasets"],
        responses={200: DatasetVersionDetailSerializer, **problems(404)},
    )
    def get(self, request: Request, pk: UUID, number: int) -> Response:
        return Response(DatasetVersionDetailSerializer(_version(request, pk, number)).data)

    @extend_schema(
        operation_id="datasets_versions_delete",
        summary="Delete a version",
        description="Refused where jobs were trained on it. Its number is not used again.",
        tags=["datasets"],
        responses={204: None, **problems(403, 404, 409)},
    )
    def delete(self, request: Request, pk: UUID, number: int) -> Response:
        versions.delete_version(_version(request, pk, number), user_of(request))
        return Response(status=204)


@extend_schema_view(
    get=extend_schema(
        operation_id="datasets_versions_findings",
        summary="What the check found",
        description="Errors first. Of each kind, some thousands are kept; `finding_counts` of the version has all.",
        tags=["datasets"],
        parameters=[FindingQuery],
        responses={200: FindingSerializer(many=True), **problems(400, 404)},
    )
)
class VersionFindings(ListAPIView[DatasetFinding]):
    queryset = DatasetFinding.objects.none()
    serializer_class = FindingSerializer
    pagination_class = OldestFirst
    filter_backends = ()

    def get_queryset(self) -> QuerySet[DatasetFinding]:
        asked = FindingQuery.of(self.request)
        return findings_of(_version(self.request, self.kwargs["pk"], self.kwargs["number"]), **asked)


class VersionFindingsTable(APIView):
    content_negotiation_class = AnyMediaType

    @extend_schema(
        operation_id="datasets_versions_findings_csv",
        summary="What the check found, as CSV",
        description="Its last rows say of which kinds not all were kept.",
        tags=["datasets"],
        parameters=[FindingQuery],
        responses={(200, "text/csv"): OpenApiTypes.STR, **problems(400, 404)},
    )
    def get(self, request: Request, pk: UUID, number: int) -> StreamingHttpResponse:
        version = _version(request, pk, number)
        rows: Iterator[str] = findings_csv(version, **FindingQuery.of(request))
        response = StreamingHttpResponse(rows, content_type="text/csv; charset=utf-8")
        filename = f"{version.dataset.name} v{version.number} findings.csv"
        response["Content-Disposition"] = content_disposition_header(True, filename) or "attachment"
        return response


def _compared(request: Request, pk: UUID, number: int) -> tuple[DatasetVersion, DatasetVersion]:
    """The older of the comparison, and the one in the address."""
    new = _version(request, pk, number)
    return _version(request, pk, DiffQuery.of(request)["with"]), new


class VersionDiff(APIView):
    @extend_schema(
        operation_id="datasets_versions_diff",
        summary="Compare two versions",
        description="What this version has otherwise than the one it is compared with.",
        tags=["datasets"],
        parameters=[DiffQuery],
        responses={200: DiffSerializer, **problems(400, 404)},
    )
    def get(self, request: Request, pk: UUID, number: int) -> Response:
        return Response(DiffSerializer(versions.diff(*_compared(request, pk, number))).data)


@extend_schema_view(
    get=extend_schema(
        operation_id="datasets_versions_diff_images",
        summary="Images that differ between two versions",
        tags=["datasets"],
        parameters=[DiffQuery, CHANGE],
        responses={200: ChangedImageSerializer(many=True), **problems(400, 404)},
    )
)
class VersionDiffImages(ListAPIView[DatasetImage]):
    queryset = DatasetImage.objects.none()
    serializer_class = ChangedImageSerializer
    pagination_class = OldestFirst
    filter_backends = ()

    def get_queryset(self) -> QuerySet[DatasetImage]:
        old, new = _compared(self.request, self.kwargs["pk"], self.kwargs["number"])
        change = self.kwargs["change"]
        if change not in versions.CHANGES:
            raise Http404
        return versions.changed_images(old, new, change)


# --- imports --------------------------------------------------------------------------------------------------------


@extend_schema_view(
    get=extend_schema(
        operation_id="datasets_imports_list",
        summary="List the imports of a dataset",
        tags=["datasets"],
        responses={200: ImportSerializer(many=True), **problems(400, 404)},
    )
)
class DatasetImports(ListAPIView[DatasetImport]):
    """Uploads and imports into the dataset, newest first."""

    queryset = DatasetImport.objects.none()
    serializer_class = ImportSerializer
    pagination_class = NewestFirst
    filter_backends = ()
    parser_classes = (JSONParser,)

    def get_queryset(self) -> QuerySet[DatasetImport]:
        return imports_of(self.request.user).filter(dataset=_dataset(self.request, self.kwargs["pk"]))

    @extend_schema(
        operation_id="datasets_imports_create",
        summary="Begin an upload",
        description="An archive (zip, tar, tar.gz, tar.zst) travels in parts of `part_size` bytes, the last one "
        "shorter: ask `parts` where to PUT them, send them in any order, then `complete` it. An upload of this file "
        "name and size that you began and did not finish is gone on with (200); its `parts` are there already.",
        tags=["datasets"],
        request=UploadStart,
        responses={200: ImportDetailSerializer, 201: ImportDetailSerializer, **problems(400, 403, 404, 503)},
    )
    def post(self, request: Request, pk: UUID) -> Response:
        dataset, asked = _dataset(request, pk), UploadStart(data=request.data)
        asked.is_valid(raise_exception=True)
        resume, upload = asked.validated_data.pop("resume"), asked.validated_data
        found = uploads.resumable(dataset, upload["filename"], upload["size"], user_of(request)) if resume else None
        imp = found or uploads.start_upload(dataset=dataset, by=user_of(request), **upload)
        address = reverse("api:import", args=[imp.pk], request=request)
        return Response(_shown_import(imp), status=200 if found else 201, headers={"Location": address})


class ImportDetail(APIView):
    @extend_schema(
        operation_id="imports_retrieve",
        summary="Show an import",
        tags=["datasets"],
        responses={200: ImportDetailSerializer, **problems(404, 503)},
    )
    def get(self, request: Request, pk: UUID) -> Response:
        return Response(_shown_import(_import(request, pk)))

    @extend_schema(
        operation_id="imports_cancel",
        summary="Cancel an upload or import",
        tags=["datasets"],
        responses={204: None, **problems(403, 404, 409)},
    )
    def delete(self, request: Request, pk: UUID) -> Response:
        uploads.cancel_import(_import(request, pk), user_of(request))
        return Response(status=204)


class ImportParts(APIView):
    parser_classes = (JSONParser,)

    @extend_schema(
        operation_id="imports_parts",
        summary="Where to send parts",
        description="PUT the bytes of each part to its address, with no other headers than `Content-Length`. An "
        "address of the platform itself (below `/api/v1/`) wants your credentials too; a store's must not get them.",
        tags=["datasets"],
        request=PartNumbers,
        responses={200: PartUrlsSerializer, **problems(400, 403, 404, 409, 503)},
    )
    def post(self, request: Request, pk: UUID) -> Response:
        imp, asked = _upload(request, pk), PartNumbers(data=request.data)
        asked.is_valid(raise_exception=True)
        base_url = request.build_absolute_uri("/")
        urls = uploads.part_urls(imp, asked.validated_data["numbers"], base_url=base_url)
        return Response({"urls": {str(number): url for number, url in urls.items()}})


class ImportPart(APIView):
    parser_classes = (RawBody,)

    @extend_schema(
        operation_id="imports_part_upload",
        summary="Send a part",
        description="For stores without a server of their own; `parts` tells when this is the address to use. A part "
        "that is sent again replaces the one there is.",
        tags=["datasets"],
        request={"application/octet-stream": OpenApiTypes.BINARY},
        responses={204: None, **problems(400, 403, 404, 409, 411, 415, 503)},
    )
    def put(self, request: Request, pk: UUID, number: int) -> Response:
        imp = _upload(request, pk)
        length = request.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise LengthRequired(_("Send the part's size in bytes as Content-Length."))
        # Not request.data: the bytes go through in chunks, and never lie in memory as a whole.
        body = cast("BinaryIO", request._request)
        uploads.receive_part(imp, number, body, int(length))
        return Response(status=204)


class ImportComplete(APIView):
    parser_classes = (JSONParser,)

    @extend_schema(
        operation_id="imports_complete",
        summary="Complete an upload",
        description="Once all parts are sent. The import then waits for its turn; ask for it until `state` is "
        "`succeeded` or `failed`.",
        tags=["datasets"],
        request=None,
        responses={200: ImportDetailSerializer, **problems(400, 403, 404, 409, 503)},
    )
    def post(self, request: Request, pk: UUID) -> Response:
        return Response(_shown_import(uploads.complete_upload(_import(request, pk), user_of(request))))
