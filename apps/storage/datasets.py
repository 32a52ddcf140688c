"""Making a dataset. Its data comes in by imports."""

from django.contrib.auth.models import AbstractUser
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from apps.projects.models import Project
from apps.projects.rights import Right, may
from apps.storage.errors import InvalidUploadError, NotPermittedError
from apps.storage.models import TASK_CHOICES, Dataset

_NAME_LENGTH = Dataset._meta.get_field("name").max_length or 0


def create_dataset(*, project: Project, name: str, task_type: str, by: AbstractUser) -> Dataset:
    """An empty dataset, to import into.

    Raises:
        NotPermittedError: `by` may not train in `project`.
        InvalidUploadError: with every problem, by field; a name that is taken is one.
    """
    if not may(by, Right.TRAIN, project):
        raise NotPermittedError(_("You may not make datasets in project %(project)s.") % {"project": project})
    problems: dict[str, list[str]] = {}
    if not name.strip() or len(name) > _NAME_LENGTH or not name.isprintable():
        problems["name"] = [_("must be one line of at most %(length)s characters") % {"length": _NAME_LENGTH}]
    if task_type not in dict(TASK_CHOICES):
        problems["task_type"] = [_("must be one of: %(tasks)s") % {"tasks": ", ".join(dict(TASK_CHOICES))}]
    if problems:
        raise InvalidUploadError(problems)
    try:
        with transaction.atomic():
            return Dataset.objects.create(project=project, name=name.strip(), task_type=task_type)
    except IntegrityError as error:
        taken = _("is taken: project %(project)s has a dataset of this name") % {"project": project}
        raise InvalidUploadError({"name": [taken]}) from error
