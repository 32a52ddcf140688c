"""What lists can be narrowed by."""

from django_filters import CharFilter, ChoiceFilter, FilterSet, IsoDateTimeFilter, MultipleChoiceFilter

from apps.jobs.models import Job
from apps.jobs.states import State
from apps.storage.models import TASK_CHOICES, Dataset


class DatasetFilter(FilterSet):  # type: ignore[misc] # django-filter has no types
    project = CharFilter(field_name="project_id", help_text="Id of a project.")
    task_type = ChoiceFilter(choices=TASK_CHOICES, help_text="What its labels are for.")

    class Meta:
        model = Dataset
        fields: list[str] = []


class JobFilter(FilterSet):  # type: ignore[misc]
    # distinct=False: a state matches a row once, and DISTINCT would compare every column.
    state = MultipleChoiceFilter(
        choices=State.choices, distinct=False, help_text="Repeat it for jobs in any of several states."
    )
    project = CharFilter(field_name="project_id", help_text="Id of a project.")
    task_type = ChoiceFilter(choices=TASK_CHOICES, help_text="What is learnt.")
    model_name = CharFilter(help_text="Model architecture, such as `yolo11n`.")
    created_after = IsoDateTimeFilter(field_name="created_at", lookup_expr="gte", help_text="At or after this time.")
    created_before = IsoDateTimeFilter(field_name="created_at", lookup_expr="lt", help_text="Before this time.")

    class Meta:
        model = Job
        fields: list[str] = []
