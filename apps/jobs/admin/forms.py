"""The form for a new job. It asks, and `services.submit` decides."""

from itertools import groupby
from typing import Any, cast

from django import forms
from django.contrib.auth.models import AbstractUser
from django.db.models import OuterRef, QuerySet, Subquery
from django.forms.models import ModelChoiceIterator
from django.utils.functional import keep_lazy_text
from django.utils.html import escape
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from apps.jobs import services
from apps.jobs.errors import InvalidJobError
from apps.jobs.models import PRETRAINED_CHOICES, Job
from apps.projects.models import Project
from apps.projects.rights import Right, projects_of
from apps.storage.errors import NoSuchVersionError
from apps.storage.models import TASK_CHOICES, Dataset, DatasetVersion
from apps.storage.selectors import find_version
from trainer.contract.tasks import MODELS
from trainer.contract.variables import TrainingVariables

FIELDSETS: list[tuple[Any, dict[str, list[Any]]]] = [
    (gettext_lazy("What to train"), {"fields": ["project", ("dataset", "version"), ("task_type", "model_name")]}),
    (
        gettext_lazy("How to train"),
        {"fields": [("epochs", "batch_size"), ("learning_rate", "image_size"), ("pretrained", "weights")]},
    ),
    (
        gettext_lazy("Further settings"),
        {"fields": ["hyperparameters", ("seed", "checkpoint_every"), ("name", "priority")]},
    ),
]


class GroupedByProject(ModelChoiceIterator):  # type: ignore[type-arg]
    """Datasets under the name of their project; the script that narrows them goes by that name."""

    def __iter__(self) -> Any:
        yield ("", self.field.empty_label)
        for project, datasets in groupby(self.queryset, key=lambda dataset: dataset.project.name):
            yield (project, [self.choice(dataset) for dataset in datasets])


class DatasetField(forms.ModelChoiceField):  # type: ignore[type-arg]
    iterator = GroupedByProject

    def label_from_instance(self, obj: Any) -> str:
        if obj.newest_number is None:
            return _("%(name)s (no data yet)") % {"name": obj.name}
        if obj.trainable_number is None:
            return _("%(name)s (no version without errors)") % {"name": obj.name}
        return f"{obj.name} v{obj.trainable_number}"


def _label(name: str) -> Any:
    return capfirst(Job._meta.get_field(name).verbose_name)  # type: ignore[union-attr]


def _about(name: str) -> dict[str, Any]:
    """Label, explanation and default of a field, from the model and from the contract that checks it."""
    default = Job._meta.get_field(name).get_default()  # type: ignore[union-attr]
    about = gettext_lazy(TrainingVariables.model_fields[name.upper()].description or "")
    return {"label": _label(name), "help_text": _explained(about), "initial": default}


@keep_lazy_text
def _explained(about: Any) -> str:
    """Unfold shows explanations as they are, and ours name things like `<MODEL_NAME>`."""
    return escape(about)


def _models_by_family() -> list[tuple[str, list[tuple[str, str]]]]:
    names = [name for models in MODELS.values() for name in models]
    families = dict.fromkeys(map(_family, names))
    return [(family, [(name, name) for name in names if _family(name) == family]) for family in families]


def _family(model_name: str) -> str:
    """`yolo11` of `yolo11n-seg`: all up to the letter for the size."""
    return model_name.partition("-")[0][:-1]


class JobForm(forms.Form):
    project = forms.ModelChoiceField(Project.objects.none(), label=_label("project"), widget=UnfoldAdminSelectWidget)
    dataset = DatasetField(
        Dataset.objects.none(),
        label=gettext_lazy("Dataset"),
        widget=UnfoldAdminSelectWidget,
    )
    version = forms.IntegerField(
        required=False,
        min_value=1,
        label=gettext_lazy("Version of the dataset"),
        help_text=gettext_lazy("Its number. Empty: the newest that has no errors now, with which the job stays."),
        widget=UnfoldAdminIntegerFieldWidget,
    )
    task_type = forms.ChoiceField(choices=TASK_CHOICES, widget=UnfoldAdminSelectWidget, **_about("task_type"))
    model_name = forms.ChoiceField(
        choices=_models_by_family,
        widget=UnfoldAdminSelectWidget,
        error_messages={"invalid_choice": gettext_lazy("%(value)s is not a model that is trained here.")},
        **_about("model_name"),
    )
    epochs = forms.IntegerField(widget=UnfoldAdminIntegerFieldWidget, **_about("epochs"))
    batch_size = forms.IntegerField(widget=UnfoldAdminIntegerFieldWidget, **_about("batch_size"))
    learning_rate = forms.FloatField(
        widget=UnfoldAdminDecimalFieldWidget(attrs={"step": "any"}), **_about("learning_rate")
    )
    image_size = forms.IntegerField(widget=UnfoldAdminIntegerFieldWidget, **_about("image_size"))
    pretrained = forms.ChoiceField(choices=PRETRAINED_CHOICES, widget=UnfoldAdminSelectWidget, **_about("pretrained"))
    weights = forms.CharField(required=False, max_length=500, widget=UnfoldAdminTextInputWidget, **_about("weights"))
    hyperparameters = forms.JSONField(
        required=False, widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}), **_about("hyperparameters")
    )
    seed = forms.IntegerField(widget=UnfoldAdminIntegerFieldWidget, **_about("seed"))
    checkpoint_every = forms.IntegerField(
        required=False, widget=UnfoldAdminIntegerFieldWidget, **_about("checkpoint_every")
    )
    priority = forms.IntegerField(
        initial=0,
        label=_label("priority"),
        help_text=Job._meta.get_field("priority").help_text,
        widget=UnfoldAdminIntegerFieldWidget,
    )
    name = forms.CharField(
        required=False,
        max_length=100,
        label=_label("name"),
        help_text=gettext_lazy("What you will know it by; its number does without."),
        widget=UnfoldAdminTextInputWidget,
    )

    def __init__(self, *args: Any, person: AbstractUser, model: Job | None = None, **kwargs: Any) -> None:
        """`model` is the job that this one is to be a clone of."""
        super().__init__(*args, **kwargs)
        self.person, self.model = person, model
        projects = projects_of(person, Right.TRAIN)
        self._field("project").queryset = projects
        self._field("project").empty_label = self._field("dataset").empty_label = _("Choose one")
        if len(projects) == 1:
            self.fields["project"].initial = projects[0]
        self._field("dataset").queryset = _datasets(projects)

    def tasks_by_dataset(self) -> dict[str, str]:
        """The task of each dataset that is offered, by the dataset's id."""
        datasets: QuerySet[Dataset] = self._field("dataset").queryset
        return {str(pk): task for pk, task in datasets.values_list("pk", "task_type")}

    def submit(self) -> Job | None:
        """The new job, or None where something is wrong with it: the fields then say what.

        Raises:
            NotAllowedError: the person lost the right since the form was shown.
        """
        chosen = {name: value for name, value in self.cleaned_data.items() if name != "version"}
        chosen["hyperparameters"] = chosen["hyperparameters"] or {}
        try:
            chosen["dataset"] = find_version(chosen["dataset"], self.cleaned_data["version"])
            return services.submit(**chosen, by=self.person, cloned_from=self.model)
        except NoSuchVersionError as error:
            self.add_error("version", str(error))
            return None
        except InvalidJobError as error:
            for name, problems in error.problems.items():
                self.add_error(name if name in self.fields else None, [capfirst(text) for text in problems])
            return None

    def _field(self, name: str) -> Any:
        return cast("Any", self.fields[name])


def values_of(job: Job) -> dict[str, Any]:
    """What the form shows at first for a clone of `job`."""
    values = {name: getattr(job, name) for name in (*services.TRAINING_FIELDS, "name", "priority")}
    version = job.dataset_version
    return {**values, "project": job.project_id, "dataset": version.dataset_id, "version": version.number}


def _datasets(projects: QuerySet[Project]) -> QuerySet[Dataset]:
    """With the number of the newest version that may be trained on, and of the newest of all."""
    newest = DatasetVersion.objects.filter(dataset=OuterRef("pk")).order_by("-number").values("number")
    ordered = Dataset.objects.filter(project__in=projects).select_related("project").order_by("project__name", "name")
    return ordered.annotate(trainable_number=Subquery(newest.filter(errors=0)[:1]), newest_number=Subquery(newest[:1]))
