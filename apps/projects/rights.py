"""Who may do what. The admin, the API and `runtrainer` all ask here."""

from enum import IntEnum

from django.contrib.auth.models import AbstractUser, AnonymousUser
from django.db.models import QuerySet

from apps.projects.models import Membership, Project, Role

Person = AbstractUser | AnonymousUser


class Right(IntEnum):
    """Ordered: whoever has a right has those before it."""

    VIEW = 1
    TRAIN = 2
    MANAGE = 3


_RIGHTS = {Role.VIEWER: Right.VIEW, Role.TRAINER: Right.TRAIN, Role.MANAGER: Right.MANAGE}


def may(person: Person, right: Right, project: Project) -> bool:
    """Superusers are the site's operators and may do everything; anybody else needs a membership."""
    if not person.is_authenticated or not person.is_active:
        return False
    if person.is_superuser:
        return True
    role = Membership.objects.filter(project=project, user_id=person.pk).values_list("role", flat=True).first()
    return role is not None and _RIGHTS[Role(role)] >= right


def projects_of(person: Person, right: Right = Right.VIEW) -> QuerySet[Project]:
    """The projects in which `person` has `right`."""
    if not person.is_authenticated or not person.is_active:
        return Project.objects.none()
    if person.is_superuser:
        return Project.objects.all()
    roles = [role for role, granted in _RIGHTS.items() if granted >= right]
    held = Membership.objects.filter(user_id=person.pk, role__in=roles)
    return Project.objects.filter(pk__in=held.values("project"))
