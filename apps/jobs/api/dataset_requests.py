"""What callers send about datasets. What is wrong with a name, a size or an option is told by the verbs."""

from typing import Any

from rest_framework import serializers

from apps.jobs.api.requests import Query, VisibleProject
from apps.storage.models import SEVERITY_CHOICES, TASK_CHOICES, Dataset
from apps.storage.options import VAL_SHARE

MAX_NUMBERS = 1000
_INT_BOUND = 2**31 - 1
_SIZE_BOUND = 2**53


class DatasetCreation(serializers.Serializer[Any]):
    project = VisibleProject()
    name = serializers.CharField(max_length=Dataset._meta.get_field("name").max_length)
    task_type = serializers.ChoiceField(choices=TASK_CHOICES)


class UploadStart(serializers.Serializer[Any]):
    filename = serializers.CharField(max_length=1000, help_text="It ends as an archive does: .zip, .tar, .tar.gz …")
    size = serializers.IntegerField(min_value=1, max_value=_SIZE_BOUND, help_text="Bytes.")
    format = serializers.CharField(
        required=False, allow_null=True, help_text="How the data is laid out, by name; detected where it is left out."
    )
    val_share = serializers.FloatField(
        default=VAL_SHARE, help_text="Share of the images that validate, where the data has no such split."
    )
    resume = serializers.BooleanField(default=True, help_text="Go on with such an upload that you did not finish.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `start_upload`, and `resume`."""
        options = {"format": attrs.pop("format", None), "val_share": attrs.pop("val_share")}
        return {**attrs, "options": options}


class PartNumbers(serializers.Serializer[Any]):
    numbers = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=_INT_BOUND),
        min_length=1,
        max_length=MAX_NUMBERS,
        help_text="Numbers of parts, from 1.",
    )


class FindingQuery(Query):
    severity = serializers.ChoiceField(choices=SEVERITY_CHOICES, required=False, help_text="Only of this severity.")
    code = serializers.RegexField(r"^[a-z0-9_]+$", max_length=40, required=False, help_text="Only of this kind.")


class DiffQuery(Query):
    def get_fields(self) -> dict[str, Any]:
        # "with" is no name that a class could give an attribute.
        number = serializers.IntegerField(min_value=1, max_value=_INT_BOUND, help_text="Number of the other version.")
        return {"with": number}
