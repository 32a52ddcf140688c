"""Datasets, how their data comes in, and their immutable versions."""

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

SEVERITY_CHOICES = [("error", _("Error")), ("warning", _("Warning"))]
FINDINGS_KEPT = 5_000


class Dataset(models.Model):
    """A named collection of labelled images for one task. Its content lies in its versions."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, models.CASCADE, related_name="datasets", verbose_name=_("project"))
    name = models.CharField(_("name"), max_length=100)
    task_type = models.CharField(_("task"), max_length=32, choices=TASK_CHOICES)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    last_number = models.PositiveIntegerField(
        default=0, editable=False, help_text=_("Of the newest version there ever was: no number means two versions")
    )

    # Until then, unless it is taken back before, what no version needs is being deleted: no import may begin.
    sweep_until = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ["name"]
        verbose_name = _("dataset")
        verbose_name_plural = _("datasets")
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="dataset_name_unique_in_project")]

    def __str__(self) -> str:
        return self.name

    @property
    def latest(self) -> "DatasetVersion | None":
        """The newest version that may be trained on."""
        return self.versions.filter(errors=0).order_by("-number").first()


class ImmutableError(Exception):
    """A dataset version was to be changed. Make a new version instead: jobs rely on what this one holds."""


class _Complete(models.Manager["DatasetVersion"]):
    def get_queryset(self) -> models.QuerySet["DatasetVersion"]:
        return super().get_queryset().filter(complete=True)


class DatasetVersion(models.Model):
    """One frozen state of a dataset, known by the SHA-256 of what it holds (`trainer.dataset.manifest`).

    One with errors can be looked at and not be trained on. A version is `complete` once all its rows are there, and
    no longer while they are deleted; `objects`, and so `dataset.versions`, know only complete ones.
    """

    dataset = models.ForeignKey(Dataset, models.CASCADE, related_name="versions", verbose_name=_("dataset"))
    number = models.PositiveIntegerField(_("version"))
    sha256 = models.CharField(_("SHA-256"), max_length=64)
    size = models.BigIntegerField(_("size"), help_text=_("Bytes of all pictures and labels"))
    files = models.PositiveIntegerField(_("files"), default=0)
    class_names = models.JSONField(_("classes"), default=list)
    keypoints = models.JSONField(_("keypoints"), null=True, blank=True)
    images = models.JSONField(_("images"), default=dict, help_text=_("Images in each split"))
    instances = models.JSONField(_("instances"), default=dict, help_text=_("Labelled objects in each split"))
    statistics = models.JSONField(_("statistics"), default=dict, blank=True)
    errors = models.PositiveIntegerField(_("errors"), default=0)
    warnings = models.PositiveIntegerField(_("warnings"), default=0)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, verbose_name=_("created by")
    )
    complete = models.BooleanField(default=True, editable=False)
    shards: "models.ManyToManyField[Shard, models.Model]" = models.ManyToManyField(
        "Shard", related_name="versions", editable=False
    )

    objects = _Complete()
    everything = models.Manager()  # noqa: DJ012 - a manager, which ruff takes for a field

    class Meta:
        ordering = ["-number"]
        verbose_name = _("dataset version")
        verbose_name_plural = _("dataset versions")
        constraints = [
            models.UniqueConstraint(
                fields=["dataset", "number"], name="dataset_version_number_unique", condition=models.Q(complete=True)
            )
        ]

    def __str__(self) -> str:
        return f"{self.dataset.name} v{self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise ImmutableError(f"{self} is frozen; import the data again to make a new version.")
        super().save(*args, **kwargs)

    @property
    def trainable(self) -> bool:
        return self.errors == 0


class Shard(models.Model):
    """A tar of pictures and labels in the store, shared by the versions of its dataset."""

    dataset = models.ForeignKey(Dataset, models.CASCADE, related_name="shards", verbose_name=_("dataset"))
    key = models.CharField(_("key"), max_length=500, unique=True)
    sha256 = models.CharField(_("SHA-256"), max_length=64)
    size = models.BigIntegerField(_("size"))
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("shard")
        verbose_name_plural = _("shards")

    def __str__(self) -> str:
        return self.key


class StoredFile(models.Model):
    """The bytes of a picture or a label within a shard. A dataset stores the same bytes once."""

    shard = models.ForeignKey(Shard, models.CASCADE, related_name="files", verbose_name=_("shard"))
    dataset = models.ForeignKey(Dataset, models.CASCADE, related_name="+", verbose_name=_("dataset"))
    sha256 = models.CharField(_("SHA-256"), max_length=64)
    offset = models.BigIntegerField(_("offset"))
    size = models.BigIntegerField(_("size"))

    class Meta:
        verbose_name = _("stored file")
        verbose_name_plural = _("stored files")
        constraints = [models.UniqueConstraint(fields=["dataset", "sha256"], name="file_stored_once_in_dataset")]

    def __str__(self) -> str:
        return self.sha256


class DatasetImage(models.Model):
    """A picture of a version, with what its check learnt. Rows of a version are made in the order of their paths."""

    version = models.ForeignKey(
        DatasetVersion, models.CASCADE, related_name="dataset_images", verbose_name=_("dataset version")
    )
    path = models.CharField(_("path"), max_length=1000)
    split = models.CharField(_("split"), max_length=8)
    # RESTRICT: a file goes neither alone nor with its shard while it is in a version, but does with its dataset.
    file = models.ForeignKey(StoredFile, models.RESTRICT, related_name="+", verbose_name=_("picture"))
    label = models.ForeignKey(
        StoredFile, models.RESTRICT, related_name="+", null=True, blank=True, verbose_name=_("label")
    )
    width = models.PositiveIntegerField(_("width"), default=0)
    height = models.PositiveIntegerField(_("height"), default=0)
    instances = models.PositiveIntegerField(_("instances"), default=0)

    class Meta:
        ordering = ["id"]
        verbose_name = _("image")
        verbose_name_plural = _("images")
        indexes = [models.Index(fields=["version", "split", "id"], name="image_split")]
        constraints = [models.UniqueConstraint(fields=["version", "path"], name="image_once_in_version")]

    def __str__(self) -> str:
        return self.path


class ImageClass(models.Model):
    """A class that occurs in a picture, so that the gallery can be filtered by it."""

    image = models.ForeignKey(DatasetImage, models.CASCADE, related_name="classes", verbose_name=_("image"))
    version = models.ForeignKey(DatasetVersion, models.CASCADE, related_name="+", verbose_name=_("dataset version"))
    class_id = models.PositiveIntegerField(_("class"))

    class Meta:
        verbose_name = _("class in an image")
        verbose_name_plural = _("classes in images")
        indexes = [models.Index(fields=["version", "class_id", "image"], name="image_class")]

    def __str__(self) -> str:
        return f"{self.image_id}: {self.class_id}"


class DatasetFinding(models.Model):
    """Something that the check of a version found; of one kind, the first FINDINGS_KEPT are kept."""

    version = models.ForeignKey(
        DatasetVersion, models.CASCADE, related_name="findings", verbose_name=_("dataset version")
    )
    image = models.ForeignKey(
        DatasetImage, models.CASCADE, related_name="findings", null=True, blank=True, verbose_name=_("image")
    )
    severity = models.CharField(_("severity"), max_length=8, choices=SEVERITY_CHOICES)
    code = models.CharField(_("kind"), max_length=40)
    message = models.TextField(_("message"))
    path = models.CharField(_("path"), max_length=1000, blank=True)
    line = models.PositiveIntegerField(_("line"), null=True, blank=True)

    class Meta:
        ordering = ["id"]
        verbose_name = _("finding")
        verbose_name_plural = _("findings")
        indexes = [models.Index(fields=["version", "code", "image"], name="finding_code")]

    def __str__(self) -> str:
        return f"{self.severity} {self.code}: {self.path}"


class FindingCount(models.Model):
    """How many findings of one kind a version has, those that were not kept included."""

    version = models.ForeignKey(
        DatasetVersion, models.CASCADE, related_name="finding_counts", verbose_name=_("dataset version")
    )
    severity = models.CharField(_("severity"), max_length=8, choices=SEVERITY_CHOICES)
    code = models.CharField(_("kind"), max_length=40)
    number = models.PositiveIntegerField(_("number"))

    class Meta:
        ordering = ["severity", "-number", "code"]  # "error" comes before "warning"
        verbose_name = _("number of findings")
        verbose_name_plural = _("numbers of findings")
        constraints = [
            models.UniqueConstraint(fields=["version", "severity", "code"], name="one_count_per_kind_of_finding")
        ]

    def __str__(self) -> str:
        return f"{self.severity} {self.code}: {self.number}"


class ImportState(models.TextChoices):
    """uploading → queued → running → succeeded | failed; any of the first three → cancelled."""

    UPLOADING = "uploading", _("Uploading")
    QUEUED = "queued", _("Queued")
    RUNNING = "running", _("Running")
    SUCCEEDED = "succeeded", _("Succeeded")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")


GOING = (ImportState.UPLOADING, ImportState.QUEUED, ImportState.RUNNING)


class Phase(models.TextChoices):
    """What a running import is doing; `done` and `total` count bytes, files or images in it."""

    DOWNLOADING = "downloading", _("Downloading")
    FETCHING = "fetching", _("Copying the upload to the worker")
    UNPACKING = "unpacking", _("Unpacking")
    CONVERTING = "converting", _("Converting")
    CHECKING = "checking", _("Checking")
    STORING = "storing", _("Storing")
    RECORDING = "recording", _("Recording")


class DatasetImport(models.Model):
    """Data on its way into a dataset: an upload, then unpacking, conversion, checking and packing on a worker."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    dataset = models.ForeignKey(Dataset, models.CASCADE, related_name="imports", verbose_name=_("dataset"))
    version = models.ForeignKey(
        DatasetVersion, models.SET_NULL, null=True, blank=True, related_name="imports", verbose_name=_("version")
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, verbose_name=_("created by")
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    source = models.CharField(_("source"), max_length=1000, help_text=_("File name, folder or address it came from"))
    size = models.BigIntegerField(_("size"), null=True, blank=True, help_text=_("Bytes of the upload"))
    options = models.JSONField(_("options"), default=dict, blank=True)

    # An upload: where in the store it lies, and the store's name for it while it is not complete.
    upload_key = models.CharField(max_length=500, blank=True, editable=False)
    upload_id = models.TextField(blank=True, editable=False)
    part_size = models.BigIntegerField(null=True, editable=False)

    state = models.CharField(_("state"), max_length=16, choices=ImportState.choices, default=ImportState.QUEUED)
    phase = models.CharField(_("phase"), max_length=32, blank=True)
    done = models.BigIntegerField(_("done"), default=0)
    total = models.BigIntegerField(_("of"), default=0)
    format = models.CharField(_("format"), max_length=32, blank=True)
    message = models.TextField(_("what happened"), blank=True)
    tries = models.PositiveIntegerField(_("tries"), default=0)
    seen_at = models.DateTimeField(_("last sign of life"), null=True, blank=True)
    ended_at = models.DateTimeField(_("ended"), null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = _("import")
        verbose_name_plural = _("imports")
        indexes = [models.Index(fields=["state", "created_at"], name="import_state")]

    def __str__(self) -> str:
        return self.source

    @property
    def ended(self) -> bool:
        return self.state in (ImportState.SUCCEEDED, ImportState.FAILED, ImportState.CANCELLED)
