"""Reading datasets on somebody's behalf."""

import uuid
from contextlib import suppress

from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from apps.projects.models import Project
from apps.projects.rights import Person, projects_of
from apps.storage.errors import NoSuchDatasetError, NoSuchVersionError
from apps.storage.models import Dataset, DatasetImport, DatasetVersion


def datasets_of(person: Person) -> QuerySet[Dataset]:
    """The datasets that `person` may see."""
    return Dataset.objects.filter(project__in=projects_of(person)).select_related("project")


def imports_of(person: Person) -> QuerySet[DatasetImport]:
    """The imports into datasets that `person` may see."""
    found = DatasetImport.objects.filter(dataset__project__in=projects_of(person))
    return found.select_related("dataset__project", "version", "created_by")


def find_dataset(project: Project, name_or_id: str) -> Dataset:
    """A dataset of `project` by its name or id.

    Raises:
        NoSuchDatasetError: naming those there are.
    """
    wanted = Q(name=name_or_id)
    with suppress(ValueError):  # not an id: a name, then
        wanted |= Q(pk=uuid.UUID(name_or_id))
    dataset = Dataset.objects.filter(wanted, project=project).first()
    if dataset is None:
        names = ", ".join(project.datasets.values_list("name", flat=True)[:20]) or "none yet"
        raise NoSuchDatasetError(f"No dataset {name_or_id!r} in project {project.name}; it has: {names}.")
    return dataset


def find_version(dataset: Dataset, number: int | None) -> Dataset | DatasetVersion:
    """The version of that number; the dataset itself, which stands for its newest trainable one, where none is given.

    Raises:
        NoSuchVersionError: naming those there are.
    """
    if number is None:
        return dataset
    version = dataset.versions.filter(number=number).first()
    if version is None:
        numbers = dataset.versions.order_by("-number").values_list("number", flat=True)[:20]
        there = ", ".join(f"v{each}" for each in numbers) or _("none yet")
        words = {"dataset": dataset, "number": number, "there": there}
        raise NoSuchVersionError(_("%(dataset)s has no version %(number)s; it has: %(there)s.") % words)
    return version
