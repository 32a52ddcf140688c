"""Jobs, and the verbs on them."""

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import status
from rest_framework.generics import ListAPIView, get_object_or_404
from rest_framework.parsers import JSONParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.views import APIView

from apps.jobs import services
from apps.jobs.api.filters import JobFilter
from apps.jobs.api.pagination import JobPagination
from apps.jobs.api.requests import JobChanges, JobSubmission, user_of
from apps.jobs.api.schema import CHANGES, ILLEGAL, INVALID, SUBMISSION, problems
from apps.jobs.api.serializers import JobDetailSerializer, JobSerializer
from apps.jobs.models import Job
from apps.jobs.selectors import jobs_of


def find_job(request: Request, job_id: int) -> Job:
    """The job, where the caller may see it; 404 where not."""
    return get_object_or_404(jobs_of(request.user), pk=job_id)


def _shown(job_id: int, request: Request) -> dict[str, Any]:
    jobs = jobs_of(request.user).prefetch_related("attempts", "status_changes")
    return dict(JobDetailSerializer(get_object_or_404(jobs, pk=job_id)).data)


def _created(job: Job, request: Request) -> Response:
    address = reverse("api:job", args=[job.pk], request=request)
    return Response(_shown(job.pk, request), status=status.HTTP_201_CREATED, headers={"Location": address})


@extend_schema_view(
    get=extend_schema(summary="List jobs", tags=["jobs"], responses={200: JobSerializer(many=True), **problems(400)})
)
class JobList(ListAPIView[Job]):
    """The jobs of your projects, newest first."""

    queryset = Job.objects.none()
    serializer_class = JobSerializer
    pagination_class = JobPagination
    filterset_class = JobFilter
    parser_classes = (JSONParser,)

    def get_queryset(self) -> QuerySet[Job]:
        return jobs_of(self.request.user)

    @extend_schema(
        summary="Submit a job",
        description="Pins the dataset's newest version, or the one asked for, and puts the job in the queue.",
        tags=["jobs"],
        request=JobSubmission,
        responses={201: JobDetailSerializer, **problems(400, 403)},
        examples=[SUBMISSION, INVALID],
    )
    def post(self, request: Request) -> Response:
        asked = JobSubmission(data=request.data, context={"request": request})
        asked.is_valid(raise_exception=True)
        return _created(services.submit(by=user_of(request), **asked.validated_data), request)


class JobDetail(APIView):
    @extend_schema(summary="Show a job", tags=["jobs"], responses={200: JobDetailSerializer, **problems(404)})
    def get(self, request: Request, job_id: int) -> Response:
        return Response(_shown(job_id, request))


class JobCancel(APIView):
    @extend_schema(
        operation_id="jobs_cancel",
        summary="Cancel a job",
        description="A waiting job ends at once; the trainer of an active one is asked to stop and stores its last "
        "checkpoint first.",
        tags=["jobs"],
        request=None,
        responses={200: JobDetailSerializer, **problems(403, 404, 409)},
        examples=[ILLEGAL],
    )
    def post(self, request: Request, job_id: int) -> Response:
        services.cancel(find_job(request, job_id), by=user_of(request))
        return Response(_shown(job_id, request))


class JobRetry(APIView):
    @extend_schema(
        operation_id="jobs_retry",
        summary="Retry a job",
        description="Queues a job that failed or was cancelled as a new attempt, from the start.",
        tags=["jobs"],
        request=None,
        responses={200: JobDetailSerializer, **problems(403, 404, 409)},
        examples=[ILLEGAL],
    )
    def post(self, request: Request, job_id: int) -> Response:
        services.retry(find_job(request, job_id), by=user_of(request))
        return Response(_shown(job_id, request))


class JobClone(APIView):
    parser_classes = (JSONParser,)

    @extend_schema(
        operation_id="jobs_clone",
        summary="Clone a job",
        description="Submits a new job like this one, on the same dataset version, with the changes in the body.",
        tags=["jobs"],
        request=JobChanges,
        responses={201: JobDetailSerializer, **problems(400, 403, 404)},
        examples=[CHANGES, INVALID],
    )
    def post(self, request: Request, job_id: int) -> Response:
        original = find_job(request, job_id)
        context = {"request": request, "dataset": original.dataset_version.dataset}
        changes = JobChanges(data=request.data, context=context)
        changes.is_valid(raise_exception=True)
        return _created(services.clone(original, by=user_of(request), **changes.validated_data), request)
