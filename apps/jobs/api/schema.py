"""What the OpenAPI document says beyond what views and serializers tell by themselves."""

from http import HTTPStatus
from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import build_choice_field
from drf_spectacular.utils import Direction, OpenApiExample, OpenApiResponse, inline_serializer
from rest_framework import serializers

from apps.jobs.api.problems import MEDIA_TYPE
from apps.jobs.api.requests import JobSubmission
from apps.jobs.models import PRETRAINED_CHOICES
from apps.jobs.services import TRAINING_FIELDS
from apps.storage.models import TASK_CHOICES
from trainer.contract.variables import TrainingVariables

_KEPT = {
    "type",
    "description",
    "default",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "multipleOf",
    "maxLength",
    "additionalProperties",
}
# With their labels: the document then has one enumeration for what is sent and what is shown.
_CHOICES = {"task_type": TASK_CHOICES, "pretrained": PRETRAINED_CHOICES}


class ProblemSerializer(serializers.Serializer[Any]):
    """RFC 9457. `errors` is there when fields of the request are at fault."""

    type = serializers.CharField(help_text="Which kind of problem; `about:blank` where the status says it all.")
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField(help_text="In words.")
    errors = serializers.DictField(  # type: ignore[assignment] # declared fields are taken off the class
        child=serializers.ListField(child=serializers.CharField()), required=False
    )


def problems(*statuses: int, anybody: bool = False) -> dict[tuple[int, str], OpenApiResponse]:
    """The answers of an operation that can fail with these statuses, and with 401 unless it is open to anybody."""
    every = {*statuses} if anybody else {HTTPStatus.UNAUTHORIZED, *statuses}
    return {
        (status, MEDIA_TYPE): OpenApiResponse(ProblemSerializer, description=HTTPStatus(status).phrase)
        for status in sorted(every)
    }


def of_attempt(name: str, rows: serializers.BaseSerializer[Any], **more: serializers.Field[Any, Any, Any, Any]) -> Any:
    """The body of a list that belongs to one attempt."""
    attempt = serializers.IntegerField(allow_null=True, help_text="Its number; null before the first launch.")
    return inline_serializer(name, {"attempt": attempt, "results": rows, **more})


class JobFieldsExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Describes the variables of a training by the contract itself."""

    target_class = "apps.jobs.api.requests.JobFields"
    match_subclasses = True

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        schema: dict[str, Any] = auto_schema._map_serializer(  # type: ignore[no-untyped-call]
            self.target, direction, bypass_extensions=True
        )
        contract = TrainingVariables.model_json_schema()
        for name in TRAINING_FIELDS:
            schema["properties"][name] = _property(name, contract["properties"][name.upper()])
        if issubclass(_class_of(self.target), JobSubmission):
            schema["required"] += [name.lower() for name in contract["required"]]
        else:
            for described in schema["properties"].values():
                described.pop("default", None)  # what is left out comes from the original
        return schema


def _class_of(target: Any) -> type:
    return target if isinstance(target, type) else type(target)


def _property(name: str, variable: dict[str, Any]) -> dict[str, Any]:
    described = {key: value for key, value in variable.items() if key in _KEPT}
    choices = _CHOICES.get(name)
    return described | build_choice_field(serializers.ChoiceField(choices=choices)) if choices else described


SUBMISSION = OpenApiExample(
    "A first job",
    request_only=True,
    value={
        "project": "abc12345",
        "dataset": "6a4c1c1e-7a0e-4a58-9a55-2f0c8b1d9c11",
        "name": "baseline",
        "task_type": "object_detection",
        "model_name": "yolo11n",
        "epochs": 100,
        "batch_size": 16,
        "learning_rate": 0.001,
        "hyperparameters": {"mosaic": 0.5, "patience": 20},
    },
)
CHANGES = OpenApiExample("Larger, and sooner", request_only=True, value={"model_name": "yolo11s", "priority": 10})
INVALID = OpenApiExample(
    "Two fields are wrong",
    response_only=True,
    status_codes=["400"],
    media_type=MEDIA_TYPE,
    value={
        "type": "urn:trainyard:problem:invalid",
        "title": "The request is not valid",
        "status": 400,
        "detail": "epochs: input should be greater than or equal to 1; seed: input should be a valid integer",
        "errors": {
            "epochs": ["input should be greater than or equal to 1"],
            "seed": ["input should be a valid integer"],
        },
    },
)
ILLEGAL = OpenApiExample(
    "It has ended",
    response_only=True,
    status_codes=["409"],
    media_type=MEDIA_TYPE,
    value={
        "type": "urn:trainyard:problem:illegal-move",
        "title": "The job's state does not allow this",
        "status": 409,
        "detail": "Job 12 has ended (succeeded): nothing to cancel.",
    },
)
