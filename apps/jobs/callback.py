"""The endpoint that trainers report to: `POST /internal/training/<job id>`.

Wrong token 401, another job's token 403, unknown job 404, superseded attempt 409, malformed body 422 with the field
named, too large 413. In all of these nothing is changed.
"""

from http import HTTPStatus

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from pydantic import ValidationError

from apps.jobs.errors import SupersededError
from apps.jobs.ingest import ingest
from apps.jobs.models import Job
from apps.jobs.tokens import Bearer, bearer_of
from trainer.contract.messages import MAX_BODY_BYTES, Batch


@csrf_exempt
@require_POST
def callback(request: HttpRequest, job_id: int) -> HttpResponse:
    bearer = _bearer(request)
    if bearer is None:
        return _refuse(HTTPStatus.UNAUTHORIZED, "The bearer token is missing or wrong.")
    if bearer.job_id not in (None, job_id):
        return _refuse(HTTPStatus.FORBIDDEN, f"This token is for job {bearer.job_id}, not for job {job_id}.")
    if not Job.objects.filter(pk=job_id).exists():
        return _refuse(HTTPStatus.NOT_FOUND, f"There is no job {job_id}.")
    if int(request.headers.get("Content-Length") or 0) > MAX_BODY_BYTES:
        return _refuse(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"The body is over {MAX_BODY_BYTES} bytes: send fewer events at a time.",
        )
    try:
        batch = Batch.model_validate_json(request.body)
    except ValidationError as error:
        return _refuse_fields(error)
    if bearer.attempt not in (None, batch.attempt):
        return _refuse(HTTPStatus.FORBIDDEN, f"This token is for attempt {bearer.attempt}, not {batch.attempt}.")
    try:
        answer = ingest(job_id, batch.attempt, batch.events)
    except SupersededError as error:
        return _refuse(HTTPStatus.CONFLICT, str(error))
    return HttpResponse(answer.model_dump_json(), content_type="application/json")


def _bearer(request: HttpRequest) -> Bearer | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return bearer_of(token.strip()) if scheme.lower() == "bearer" else None


def _refuse(status: HTTPStatus, detail: str) -> JsonResponse:
    return JsonResponse({"title": status.phrase, "status": status.value, "detail": detail}, status=status)


def _refuse_fields(error: ValidationError) -> JsonResponse:
    """Where each error is, as a path into the body; the values themselves are not repeated."""
    fields = [{"field": ".".join(map(str, e["loc"])), "message": e["msg"]} for e in error.errors(include_url=False)]
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    detail = f"{fields[0]['field'] or 'body'}: {fields[0]['message']}"
    return JsonResponse(
        {"title": status.phrase, "status": status.value, "detail": detail, "errors": fields}, status=status
    )
