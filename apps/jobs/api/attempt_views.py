"""What the attempts of a job have left: metrics, events, logs and files."""

from typing import Any

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.generics import get_object_or_404
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.executor.base import LogChunk
from apps.jobs import selectors
from apps.jobs.api.job_views import find_job
from apps.jobs.api.requests import AttemptQuery, EventQuery, LogQuery
from apps.jobs.api.schema import of_attempt, problems
from apps.jobs.api.serializers import ArtifactSerializer, EpochSerializer, EventSerializer
from apps.jobs.downloads import download
from apps.jobs.models import Artifact, Attempt, EpochMetrics

LOG_HEADERS = [
    OpenApiParameter(name, int, OpenApiParameter.HEADER, response=[200], description=about)
    for name, about in (
        ("X-Log-Offset", "First byte of the answer, counted in the whole log."),
        ("X-Log-Next-Offset", "The `offset` to go on with."),
        ("X-Log-Size", "Bytes of the whole log so far."),
    )
]


class AnyMediaType(BaseContentNegotiation):
    """For answers that are what they are, whatever the client says it accepts."""

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


def _attempt(request: Request, job_id: int, number: int | None) -> Attempt | None:
    """The attempt asked for, or the newest; None where there has been none yet."""
    job = find_job(request, job_id)
    return job.current_attempt if number is None else get_object_or_404(job.attempts, number=number)


def _body(attempt: Attempt | None, results: Any, **more: Any) -> Response:
    return Response({"attempt": attempt.number if attempt else None, "results": results, **more})


class JobMetrics(APIView):
    @extend_schema(
        operation_id="jobs_metrics",
        summary="Metrics by epoch",
        tags=["jobs"],
        parameters=[AttemptQuery],
        responses={200: of_attempt("JobMetrics", EpochSerializer(many=True)), **problems(400, 404)},
    )
    def get(self, request: Request, job_id: int) -> Response:
        attempt = _attempt(request, job_id, AttemptQuery.of(request).get("attempt"))
        rows = selectors.epoch_metrics(attempt) if attempt else EpochMetrics.objects.none()
        return _body(attempt, EpochSerializer(rows, many=True).data)


class JobEvents(APIView):
    @extend_schema(
        operation_id="jobs_events",
        summary="What the trainer said",
        description="Oldest first. Ask on with `after` set to `next_after`.",
        tags=["jobs"],
        parameters=[EventQuery],
        responses={
            200: of_attempt("JobEvents", EventSerializer(many=True), next_after=serializers.IntegerField()),
            **problems(400, 404),
        },
    )
    def get(self, request: Request, job_id: int) -> Response:
        asked = EventQuery.of(request)
        attempt = _attempt(request, job_id, asked.get("attempt"))
        rows = list(selectors.events(attempt, after=asked["after"])[: asked["limit"]]) if attempt else []
        next_after = rows[-1].seq if rows else asked["after"]
        return _body(attempt, EventSerializer(rows, many=True).data, next_after=next_after)


class JobLogs(APIView):
    content_negotiation_class = AnyMediaType

    @extend_schema(
        operation_id="jobs_logs",
        summary="The log",
        description="Bytes as they were written: a character may be cut at either end.",
        tags=["jobs"],
        parameters=[LogQuery, *LOG_HEADERS],
        responses={(200, "text/plain"): OpenApiTypes.STR, **problems(400, 404, 503)},
    )
    def get(self, request: Request, job_id: int) -> HttpResponse:
        asked = LogQuery.of(request)
        attempt = _attempt(request, job_id, asked.get("attempt"))
        if attempt is None:
            chunk = LogChunk(b"", 0, 0)
        else:
            chunk = selectors.read_log(attempt, offset=asked["offset"], limit=asked["limit"])
        response = HttpResponse(chunk.data, content_type="text/plain; charset=utf-8")
        response["X-Log-Offset"] = str(chunk.next_offset - len(chunk.data))
        response["X-Log-Next-Offset"] = str(chunk.next_offset)
        response["X-Log-Size"] = str(chunk.size)
        return response


class JobArtifacts(APIView):
    @extend_schema(
        operation_id="jobs_artifacts",
        summary="Stored files",
        tags=["jobs"],
        parameters=[AttemptQuery],
        responses={200: of_attempt("JobArtifacts", ArtifactSerializer(many=True)), **problems(400, 404)},
    )
    def get(self, request: Request, job_id: int) -> Response:
        attempt = _attempt(request, job_id, AttemptQuery.of(request).get("attempt"))
        rows = selectors.artifacts(attempt) if attempt else Artifact.objects.none()
        return _body(attempt, ArtifactSerializer(rows, many=True).data)


class ArtifactDownload(APIView):
    content_negotiation_class = AnyMediaType

    @extend_schema(
        operation_id="jobs_artifacts_download",
        summary="Download a stored file",
        description="The file itself, or a redirect to a link that is good for a few minutes.",
        tags=["jobs"],
        responses={
            (200, "application/octet-stream"): OpenApiTypes.BINARY,
            302: OpenApiResponse(description="The store has the file, under `Location`."),
            **problems(404, 503),
        },
    )
    def get(self, request: Request, job_id: int, artifact_id: int) -> HttpResponseBase:
        job = find_job(request, job_id)
        return download(get_object_or_404(selectors.artifacts_of(job), pk=artifact_id))
