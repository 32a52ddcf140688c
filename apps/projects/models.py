"""Projects, and who belongs to them."""

import secrets

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

# Without 0, o, 1 and l: ids are read aloud and typed.
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


def new_project_id() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(8))


class Project(models.Model):
    """What datasets and jobs belong to, and what people are members of."""

    id = models.CharField(primary_key=True, max_length=32, default=new_project_id, editable=False)
    name = models.CharField(_("name"), max_length=100, unique=True)
    description = models.TextField(_("description"), blank=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    members = models.ManyToManyField(
        settings.AUTH_USER_MODEL, through="Membership", related_name="projects", verbose_name=_("members")
    )

    # What of its ended jobs' checkpoints is kept; apps.jobs.retention reads these.
    keep_best = models.BooleanField(
        _("keep the best"), default=True, help_text=_("The checkpoint of the best epoch of each attempt.")
    )
    keep_last = models.BooleanField(
        _("keep the last"), default=True, help_text=_("The checkpoint of the last epoch of each attempt.")
    )
    keep_every = models.PositiveIntegerField(
        _("keep every"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_("Of the periodic checkpoints, those of every so many epochs. Empty keeps all."),
    )
    keep_days = models.PositiveIntegerField(
        _("keep for days"),
        null=True,
        blank=True,
        help_text=_(
            "So many days after its job ended, an attempt is left with one checkpoint: the best, or the last where "
            "the best is not kept. Empty keeps the others for ever."
        ),
    )

    class Meta:
        ordering = ["name"]
        verbose_name = _("project")
        verbose_name_plural = _("projects")

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if not (self.keep_best or self.keep_last):
            raise ValidationError(
                {"keep_last": _("Keep the best or the last: a training without either leaves nothing to use.")}
            )

    @property
    def experiment_name(self) -> str:
        """The project's experiment in MLflow."""
        return f"project-{self.pk}"


class Role(models.TextChoices):
    """What a member may do; each role may do all that the one before it may."""

    VIEWER = "viewer", _("Viewer: sees everything")
    TRAINER = "trainer", _("Trainer: also runs and stops jobs")
    MANAGER = "manager", _("Manager: also changes the project and its members")


class Membership(models.Model):
    project = models.ForeignKey(Project, models.CASCADE, related_name="memberships", verbose_name=_("project"))
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="memberships", verbose_name=_("user")
    )
    role = models.CharField(_("role"), max_length=16, choices=Role.choices, default=Role.TRAINER)

    class Meta:
        verbose_name = _("membership")
        verbose_name_plural = _("memberships")
        constraints = [models.UniqueConstraint(fields=["project", "user"], name="one_membership_per_user_and_project")]

    def __str__(self) -> str:
        return f"{self.user} · {self.project} · {self.role}"
