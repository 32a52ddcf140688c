"""Who may do what to a dataset: what the person may do in its project."""

from django.contrib.auth.models import AbstractUser
from django.utils.translation import gettext as _

from apps.projects.rights import Right, may
from apps.storage.errors import NotPermittedError
from apps.storage.models import Dataset


def require(by: AbstractUser, right: Right, dataset: Dataset) -> None:
    """Raises NotPermittedError."""
    if not may(by, right, dataset.project):
        what = {"project": dataset.project, "dataset": dataset}
        raise NotPermittedError(_("Your role in project %(project)s does not allow this to %(dataset)s.") % what)
