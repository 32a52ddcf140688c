"""Filters of the job list."""

from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import DropdownFilter

from apps.jobs.models import Job
from trainer.contract.tasks import MODELS


class ModelFilter(DropdownFilter):
    """The models of the contract: asking the table which occur would read all of it."""

    title = _("model")
    parameter_name = "model"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for names in MODELS.values() for name in names]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return queryset.filter(model_name=self.value()) if self.value() else queryset
