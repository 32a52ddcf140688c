"""Every error of the API as an RFC 9457 problem: `application/problem+json`.

The one table of which of our errors is which status. Errors of REST framework and Django keep the status they have.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, JsonResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework import exceptions
from rest_framework.views import set_rollback

from apps.executor.errors import ExecutorError, UnknownReferenceError
from apps.jobs.errors import IllegalMoveError, InvalidJobError, NotAllowedError
from apps.storage.errors import InvalidUploadError, NotPermittedError, VersionInUseError, WrongStateError
from trainer.store import ObjectMissingError, StoreError

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

MEDIA_TYPE = "application/problem+json"
# Where a problem is not about one field; REST framework's own name for it.
WHOLE = "non_field_errors"

Errors = dict[str, list[str]]


@dataclass(frozen=True)
class Problem:
    """The members of RFC 9457, and `errors`: what is wrong with each field of a request."""

    status: int
    detail: str
    type: str = "about:blank"
    title: "StrOrPromise" = ""
    errors: Errors = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> JsonResponse:
        body: dict[str, Any] = {
            "type": self.type,
            "title": self.title or HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = self.errors
        return JsonResponse(body, status=self.status, headers=dict(self.headers), content_type=MEDIA_TYPE)


@dataclass(frozen=True)
class Kind:
    """What one of our errors is over HTTP."""

    status: HTTPStatus
    name: str
    title: "StrOrPromise"

    @property
    def uri(self) -> str:
        return f"urn:trainyard:problem:{self.name}"


INVALID = Kind(HTTPStatus.BAD_REQUEST, "invalid", gettext_lazy("The request is not valid"))
NOT_ALLOWED = Kind(HTTPStatus.FORBIDDEN, "not-allowed", gettext_lazy("Your role does not allow this"))
# The first that fits counts: a special error stands before its base.
KINDS: tuple[tuple[type[Exception], Kind], ...] = (
    (InvalidJobError, INVALID),
    (InvalidUploadError, INVALID),
    (NotAllowedError, NOT_ALLOWED),
    (NotPermittedError, NOT_ALLOWED),
    (IllegalMoveError, Kind(HTTPStatus.CONFLICT, "illegal-move", gettext_lazy("The job's state does not allow this"))),
    (WrongStateError, Kind(HTTPStatus.CONFLICT, "import-state", gettext_lazy("The import has moved on"))),
    (VersionInUseError, Kind(HTTPStatus.CONFLICT, "version-in-use", gettext_lazy("Jobs use this version"))),
    (UnknownReferenceError, Kind(HTTPStatus.NOT_FOUND, "log-gone", gettext_lazy("The log is no longer kept"))),
    (ExecutorError, Kind(HTTPStatus.SERVICE_UNAVAILABLE, "executor", gettext_lazy("The executor did not answer"))),
    (ObjectMissingError, Kind(HTTPStatus.NOT_FOUND, "file-gone", gettext_lazy("The file is no longer stored"))),
    (StoreError, Kind(HTTPStatus.SERVICE_UNAVAILABLE, "store", gettext_lazy("The store did not answer"))),
)


def exception_handler(error: Exception, context: Mapping[str, Any]) -> JsonResponse | None:
    """What REST framework answers when a view raises; None leaves a fault of ours to Django, as a 500."""
    problem = problem_of(error)
    if problem is None:
        return None
    set_rollback()
    return problem.response()


def problem_of(error: Exception) -> Problem | None:
    for kind_of_error, kind in KINDS:
        if isinstance(error, kind_of_error):
            errors = error.problems if isinstance(error, InvalidJobError | InvalidUploadError) else {}
            return Problem(kind.status, str(error), kind.uri, kind.title, errors)
    if isinstance(error, Http404):
        return Problem(HTTPStatus.NOT_FOUND, _("There is nothing here, or nothing that you may see."))
    if isinstance(error, PermissionDenied):
        return Problem(HTTPStatus.FORBIDDEN, str(error) or _("You may not do this."))
    if isinstance(error, exceptions.ValidationError):
        errors = _by_field(error.detail)
        return Problem(INVALID.status, _in_words(errors), INVALID.uri, INVALID.title, errors)
    if isinstance(error, exceptions.APIException):
        return Problem(error.status_code, str(error.detail), headers=_headers(error))
    return None


def _headers(error: exceptions.APIException) -> dict[str, str]:
    """The headers that REST framework has attached to the error for its handler to send."""
    headers = {}
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = str(challenge)
    if wait := getattr(error, "wait", None):
        headers["Retry-After"] = str(int(wait))
    return headers


def _by_field(detail: Any, path: str = "") -> Errors:
    """REST framework's nested lists and dicts as one level: `{"hyperparameters.mosaic": [...]}`."""
    if isinstance(detail, dict):
        parts = [(f"{path}.{name}".strip("."), each) for name, each in detail.items()]
    elif isinstance(detail, list) and any(isinstance(each, dict | list) for each in detail):
        parts = [(f"{path}.{index}".strip("."), each) for index, each in enumerate(detail)]
    else:
        return {path or WHOLE: [str(each) for each in (detail if isinstance(detail, list) else [detail])]}
    return {name: texts for part, each in parts for name, texts in _by_field(each, part).items()}


def _in_words(errors: Errors) -> str:
    return "; ".join(text if name == WHOLE else f"{name}: {text}" for name, texts in errors.items() for text in texts)
