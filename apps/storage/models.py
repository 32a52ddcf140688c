"""Datasets and their immutable versions."""

import uuid
from typing import Any

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from apps.projects.models import Project
from trainer.contract.tasks import TaskType

TASK_CHOICES = [
    (TaskType.OBJECT_DETECTION.value, _("Object detection")),
    (TaskType.INSTANCE_SEGMENTATION.value, _("Instance segmentation")),
    (TaskType.POSE_ESTIMATION.value, _("Pose estimation")),
    (TaskType.ORIENTED_DETECTION.value, _("Oriented detection")),
    (TaskType.IMAGE_CLASSIFICATION.value, _("Image classification")),
]


class Dataset(models.Model):
    """A named collection of labelled images for one task. Its content lies in its versions."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, models.CASCADE, related_name="datasets", verbose_name=_("project"))
    name = models.CharField(_("name"), max_length=100)
    task_type = models.CharField(_("task"), max_length=32, choices=TASK_CHOICES)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        ordering = ["name"]
        verbose_name = _("dataset")
        verbose_name_plural = _("datasets")
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="dataset_name_unique_in_project")]

    def __str__(self) -> str:
        return self.name

    @property
    def latest(self) -> "DatasetVersion | None":
        return self.versions.order_by("-number").first()


class ImmutableError(Exception):
    """A dataset version was to be changed. Make a new version instead: jobs rely on what this one holds."""


class DatasetVersion(models.Model):
    """One frozen state of a dataset: an archive in the store, known by its SHA-256."""

    dataset = models.ForeignKey(Dataset, models.CASCADE, related_name="versions", verbose_name=_("dataset"))
    number = models.PositiveIntegerField(_("version"))
    sha256 = models.CharField(_("SHA-256"), max_length=64)
    size = models.BigIntegerField(_("size"), help_text=_("Bytes of the archive"))
    class_names = models.JSONField(_("classes"), default=list)
    images = models.JSONField(_("images"), default=dict, help_text=_("Images in each split"))
    boxes = models.JSONField(_("boxes"), default=dict, help_text=_("Labelled objects in each split"))
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, verbose_name=_("created by")
    )

    class Meta:
        ordering = ["-number"]
        verbose_name = _("dataset version")
        verbose_name_plural = _("dataset versions")
        constraints = [models.UniqueConstraint(fields=["dataset", "number"], name="dataset_version_number_unique")]

    def __str__(self) -> str:
        return f"{self.dataset.name} v{self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise ImmutableError(f"{self} is frozen; import the data again to make a new version.")
        super().save(*args, **kwargs)
