"""What callers send: references are looked up on their behalf, query parameters are read as numbers.

The variables of a training go through untouched. `services.submit` holds them against the contract and reports all
that is wrong at once, so no bound stands here a second time.
"""

from typing import Any, cast

from django.contrib.auth.models import AbstractUser
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request

from apps.jobs.models import Job
from apps.jobs.services import TRAINING_FIELDS
from apps.projects.models import Project
from apps.projects.rights import projects_of
from apps.storage.errors import NoSuchVersionError
from apps.storage.models import Dataset
from apps.storage.selectors import datasets_of, find_version

MAX_LOG_BYTES = 1 << 20
MAX_EVENTS = 1000
_INT_BOUND = 2**31 - 1  # of an integer column
_SEQ_BOUND = 2**53
_NAME_LENGTH = Job._meta.get_field("name").max_length


def user_of(request: Request) -> AbstractUser:
    return cast("AbstractUser", request.user)  # the permission class lets nobody else in


class _Visible(serializers.PrimaryKeyRelatedField[Any]):
    """Refers to something that the caller may see; anything else does not exist for them."""

    default_error_messages = {"does_not_exist": gettext_lazy("There is none of this id.")}


class VisibleProject(_Visible):
    queryset = Project.objects.none()

    def to_internal_value(self, data: Any) -> Any:
        if not str(data).isprintable():  # PostgreSQL takes no NUL, not even to look for it
            self.fail("does_not_exist", pk_value=data)
        return super().to_internal_value(data)

    def get_queryset(self) -> QuerySet[Project]:
        return projects_of(self.context["request"].user)


class VisibleDataset(_Visible):
    queryset = Dataset.objects.none()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(pk_field=serializers.UUIDField(), **kwargs)

    def get_queryset(self) -> QuerySet[Dataset]:
        return datasets_of(self.context["request"].user)


@extend_schema_field(OpenApiTypes.ANY)
class TrainingField(serializers.Field[Any, Any, Any, Any]):
    """A variable of the contract, as it was sent."""

    def to_internal_value(self, data: Any) -> Any:
        return data


class JobFields(serializers.Serializer[Any]):
    """What jobs are submitted and cloned with. A name that is no field is an error: it may be a misspelt one."""

    dataset = VisibleDataset(required=False)
    dataset_version = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=_INT_BOUND,
        help_text=gettext_lazy(
            "Number of the version of the dataset. Without it: the newest without errors; a clone keeps its original's."
        ),
    )
    name = serializers.CharField(required=False, allow_blank=True, max_length=_NAME_LENGTH)
    priority = serializers.IntegerField(
        required=False,
        min_value=-_INT_BOUND,
        max_value=_INT_BOUND,
        help_text=gettext_lazy("Higher goes first."),
    )

    def get_fields(self) -> dict[str, Any]:
        training = {name: TrainingField(required=False, allow_null=True) for name in TRAINING_FIELDS}
        return {**super().get_fields(), **training}

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        unknown = sorted(set(data) - set(self.fields)) if isinstance(data, dict) else []
        if unknown:
            raise serializers.ValidationError({name: [_("is not a field of a job")] for name in unknown})
        given: dict[str, Any] = super().to_internal_value(data)
        return given

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Put the version asked for in the dataset's place; without one, `submit` pins the newest.

        Where no dataset is sent, the number is one of the original's dataset, which a clone has as its context.
        """
        number = attrs.pop("dataset_version", None)
        dataset = attrs.get("dataset", self.context.get("dataset"))
        if number is None or dataset is None:
            return attrs
        try:
            return {**attrs, "dataset": find_version(dataset, number)}
        except NoSuchVersionError as error:
            problem = {"dataset_version": [_("The dataset has no version of this number.")]}
            raise serializers.ValidationError(problem) from error


class JobSubmission(JobFields):
    """A new job."""

    project = VisibleProject()
    dataset = VisibleDataset()


class JobChanges(JobFields):
    """What a clone has otherwise than its original."""


class Query(serializers.Serializer[Any]):
    """What stands in an address behind the question mark."""

    @classmethod
    def of(cls, request: Request) -> dict[str, Any]:
        asked = cls(data=request.query_params)
        asked.is_valid(raise_exception=True)
        return dict(asked.validated_data)


class AttemptQuery(Query):
    attempt = serializers.IntegerField(
        required=False, min_value=1, max_value=_INT_BOUND, help_text="Number of an attempt; the newest without it."
    )


class EventQuery(AttemptQuery):
    after = serializers.IntegerField(
        default=0, min_value=0, max_value=_SEQ_BOUND, help_text="Only events with a higher number."
    )
    limit = serializers.IntegerField(default=100, min_value=1, max_value=MAX_EVENTS, help_text="Events at most.")


class LogQuery(AttemptQuery):
    offset = serializers.IntegerField(
        default=0,
        min_value=-_SEQ_BOUND,
        max_value=_SEQ_BOUND,
        help_text="First byte; a negative one counts from the end.",
    )
    limit = serializers.IntegerField(default=65_536, min_value=1, max_value=MAX_LOG_BYTES, help_text="Bytes at most.")
