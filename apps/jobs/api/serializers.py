"""What the API shows of projects, datasets, jobs and attempts. Nothing here writes."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.jobs.models import Artifact, Attempt, EpochMetrics, Event, Job, StatusChange
from apps.projects.models import Project
from apps.storage import uploads
from apps.storage.models import (
    Dataset,
    DatasetFinding,
    DatasetImage,
    DatasetImport,
    DatasetVersion,
    FindingCount,
    ImportState,
    Phase,
)


def _numbers(about: str) -> serializers.DictField:
    """Named numbers; null is one that was NaN or infinite."""
    return serializers.DictField(child=serializers.FloatField(allow_null=True), read_only=True, help_text=about)


class ProjectSerializer(serializers.ModelSerializer[Project]):
    class Meta:
        model = Project
        fields = ["id", "name", "description", "created_at"]
        read_only_fields = fields


class DatasetVersionSerializer(serializers.ModelSerializer[DatasetVersion]):
    class_names = serializers.ListField(
        child=serializers.CharField(), read_only=True, help_text="Name of each class, by its number."
    )
    images = serializers.DictField(child=serializers.IntegerField(), read_only=True, help_text="Images in each split.")
    instances = serializers.DictField(
        child=serializers.IntegerField(), read_only=True, help_text="Labelled objects in each split."
    )

    trainable = serializers.BooleanField(read_only=True, help_text="Whether it has no errors.")

    class Meta:
        model = DatasetVersion
        fields = [
            "number",
            "sha256",
            "files",
            "size",
            "class_names",
            "images",
            "instances",
            "errors",
            "warnings",
            "trainable",
            "created_at",
        ]
        read_only_fields = fields


class FindingCountSerializer(serializers.ModelSerializer[FindingCount]):
    class Meta:
        model = FindingCount
        fields = ["severity", "code", "number"]
        read_only_fields = fields


class DatasetVersionDetailSerializer(DatasetVersionSerializer):
    finding_counts = FindingCountSerializer(many=True, read_only=True, help_text="Errors first.")
    statistics = serializers.DictField(read_only=True, help_text="What histograms are drawn from.")
    keypoints = serializers.DictField(
        read_only=True, allow_null=True, help_text="Of pose estimation: their count, dimensions and mirror images."
    )

    class Meta(DatasetVersionSerializer.Meta):
        fields = [*DatasetVersionSerializer.Meta.fields, "keypoints", "statistics", "finding_counts"]
        read_only_fields = fields


class DatasetSerializer(serializers.ModelSerializer[Dataset]):
    project_name = serializers.CharField(source="project.name", read_only=True)
    versions = DatasetVersionSerializer(many=True, read_only=True, help_text="Newest first.")

    class Meta:
        model = Dataset
        fields = ["id", "name", "project", "project_name", "task_type", "created_at", "versions"]
        read_only_fields = fields


class FindingSerializer(serializers.ModelSerializer[DatasetFinding]):
    class Meta:
        model = DatasetFinding
        fields = ["id", "severity", "code", "path", "line", "message"]
        read_only_fields = fields


class ChangedImageSerializer(serializers.ModelSerializer[DatasetImage]):
    class Meta:
        model = DatasetImage
        fields = ["id", "path", "split", "width", "height", "instances"]
        read_only_fields = fields


class RenamedClassSerializer(serializers.Serializer[Any]):
    class_id = serializers.IntegerField(read_only=True)
    old = serializers.CharField(read_only=True, allow_null=True)
    new = serializers.CharField(read_only=True, allow_null=True)


class DiffSerializer(serializers.Serializer[Any]):
    old = serializers.IntegerField(source="old.number", read_only=True, help_text="Number of a version.")
    new = serializers.IntegerField(source="new.number", read_only=True, help_text="Number of a version.")
    counts = serializers.DictField(
        child=serializers.IntegerField(), read_only=True, help_text="Images by kind of change."
    )
    classes = RenamedClassSerializer(many=True, read_only=True, help_text="Classes whose names differ.")


class ImportSerializer(serializers.ModelSerializer[DatasetImport]):
    """An import as lists show it."""

    version = serializers.IntegerField(
        source="version.number", read_only=True, allow_null=True, help_text="Number of the version that holds its data."
    )
    created_by = serializers.CharField(
        source="created_by.username", read_only=True, allow_null=True, help_text="Name of a user."
    )
    phase = serializers.CharField(
        read_only=True,
        help_text="What it is doing, or did last before it ended: one of "
        + ", ".join(f"`{phase}`" for phase in Phase.values)
        + "; empty before it begins.",
    )
    done = serializers.IntegerField(read_only=True, help_text="Bytes, files or images of the phase that are done.")
    total = serializers.IntegerField(read_only=True, help_text="As many there are; 0 while that is not known.")

    class Meta:
        model = DatasetImport
        fields = [
            "id",
            "dataset",
            "source",
            "size",
            "created_by",
            "created_at",
            "state",
            "phase",
            "done",
            "total",
            "format",
            "message",
            "version",
            "ended_at",
        ]
        read_only_fields = fields


class UploadPartSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField(read_only=True)
    size = serializers.IntegerField(read_only=True)


class ImportDetailSerializer(ImportSerializer):
    """An import with what its upload needs and what its check found."""

    part_size = serializers.IntegerField(
        read_only=True, allow_null=True, help_text="Bytes of every part but the last; null where nothing is uploaded."
    )
    part_count = serializers.SerializerMethodField(help_text="Parts in all.")
    parts = serializers.SerializerMethodField(help_text="The parts that have arrived, while it is being uploaded.")
    finding_counts = serializers.SerializerMethodField(help_text="What the check of its version found, by kind.")

    class Meta(ImportSerializer.Meta):
        fields = [*ImportSerializer.Meta.fields, "part_size", "part_count", "parts", "finding_counts"]
        read_only_fields = fields

    def get_part_count(self, imp: DatasetImport) -> int | None:
        return uploads.part_count(imp) if imp.part_size else None

    @extend_schema_field(UploadPartSerializer(many=True))
    def get_parts(self, imp: DatasetImport) -> list[dict[str, int]]:
        if imp.state != ImportState.UPLOADING:
            return []
        return [{"number": part.number, "size": part.size} for part in uploads.parts(imp)]

    @extend_schema_field(FindingCountSerializer(many=True))
    def get_finding_counts(self, imp: DatasetImport) -> Any:
        return FindingCountSerializer(imp.version.finding_counts.all() if imp.version else (), many=True).data


class PartUrlsSerializer(serializers.Serializer[Any]):
    urls = serializers.DictField(child=serializers.CharField(), read_only=True, help_text="Addresses by part number.")


class ProgressSerializer(serializers.ModelSerializer[Job]):
    epochs = serializers.IntegerField(read_only=True, help_text="Epochs asked for.")
    fraction = serializers.FloatField(read_only=True, help_text="Share of the job that is done, from 0 to 1.")
    eta_seconds = serializers.SerializerMethodField(help_text="Time left; null where it cannot be told.")
    losses = _numbers("Losses as the trainer said them last.")
    best_metrics = _numbers("Metrics of the best epoch.")

    class Meta:
        model = Job
        fields = [
            "phase",
            "epoch",
            "epochs",
            "fraction",
            "eta_seconds",
            "losses",
            "best_epoch",
            "best_fitness",
            "best_metrics",
            "last_message_at",
            "pending_reason",
        ]
        read_only_fields = fields

    def get_eta_seconds(self, job: Job) -> float | None:
        return None if job.eta is None else job.eta.total_seconds()


class JobSerializer(serializers.ModelSerializer[Job]):
    """A job as lists show it."""

    project_name = serializers.CharField(source="project.name", read_only=True)
    dataset = serializers.UUIDField(source="dataset_version.dataset_id", read_only=True)
    dataset_name = serializers.CharField(source="dataset_version.dataset.name", read_only=True)
    dataset_version = serializers.IntegerField(source="dataset_version.number", read_only=True)
    dataset_sha256 = serializers.CharField(
        source="dataset_version.sha256", read_only=True, help_text="Of what the version holds."
    )
    created_by = serializers.CharField(
        source="created_by.username", read_only=True, allow_null=True, help_text="Name of a user."
    )
    hyperparameters = serializers.DictField(read_only=True, help_text="Every other training argument.")
    reason = serializers.CharField(
        source="get_end_reason_display", read_only=True, help_text="Why it ended, in words; empty until then."
    )
    progress = ProgressSerializer(source="*", read_only=True)

    class Meta:
        model = Job
        fields = [
            "id",
            "name",
            "project",
            "project_name",
            "dataset",
            "dataset_name",
            "dataset_version",
            "dataset_sha256",
            "created_by",
            "cloned_from",
            "priority",
            "task_type",
            "model_name",
            "epochs",
            "batch_size",
            "learning_rate",
            "image_size",
            "seed",
            "pretrained",
            "weights",
            "checkpoint_every",
            "hyperparameters",
            "state",
            "end_reason",
            "reason",
            "end_message",
            "attempt_number",
            "created_at",
            "queued_at",
            "started_at",
            "ended_at",
            "progress",
        ]
        read_only_fields = fields


class AttemptSerializer(serializers.ModelSerializer[Attempt]):
    devices = serializers.ListField(
        child=serializers.CharField(), read_only=True, help_text="GPUs leased to it; none for the CPU."
    )
    versions = serializers.DictField(
        child=serializers.CharField(), read_only=True, help_text="Software and device it ran with."
    )
    mlflow_run_url = serializers.SerializerMethodField(help_text="Where a browser opens its run in MLflow.")

    class Meta:
        model = Attempt
        fields = [
            "number",
            "executor",
            "node",
            "slot",
            "devices",
            "created_at",
            "started_at",
            "last_message_at",
            "stop_requested_at",
            "ended_at",
            "exit_code",
            "signal",
            "evidence",
            "versions",
            "mlflow_run_id",
            "mlflow_run_url",
        ]
        read_only_fields = fields

    def get_mlflow_run_url(self, attempt: Attempt) -> str | None:
        from apps.jobs.tracking import run_url  # loads the tracking client, which lists have no use for

        return run_url(attempt)


class StatusChangeSerializer(serializers.ModelSerializer[StatusChange]):
    old = serializers.CharField(read_only=True, help_text="The state it left; empty at the submission.")
    new = serializers.CharField(read_only=True, help_text="The state it went to.")

    class Meta:
        model = StatusChange
        fields = ["at", "old", "new", "actor", "reason", "evidence", "attempt_number"]
        read_only_fields = fields


class JobDetailSerializer(JobSerializer):
    """A job with all its attempts and every move it made."""

    dataset_images = serializers.DictField(
        source="dataset_version.images",
        child=serializers.IntegerField(),
        read_only=True,
        help_text="Images in each split of its dataset version.",
    )
    dataset_instances = serializers.DictField(
        source="dataset_version.instances",
        child=serializers.IntegerField(),
        read_only=True,
        help_text="Labelled objects in each split of its dataset version.",
    )
    attempts = AttemptSerializer(many=True, read_only=True, help_text="Newest first.")
    history = StatusChangeSerializer(source="status_changes", many=True, read_only=True, help_text="Newest first.")

    class Meta(JobSerializer.Meta):
        fields = [*JobSerializer.Meta.fields, "dataset_images", "dataset_instances", "attempts", "history"]


class EpochSerializer(serializers.ModelSerializer[EpochMetrics]):
    metrics = _numbers("Losses and validation metrics.")

    class Meta:
        model = EpochMetrics
        fields = ["epoch", "at", "seconds", "metrics"]
        read_only_fields = fields


class EventSerializer(serializers.ModelSerializer[Event]):
    # Declared fields are taken off the class: nothing is hidden.
    data = serializers.DictField(read_only=True, help_text="As the trainer sent it.")  # type: ignore[assignment]

    class Meta:
        model = Event
        fields = ["seq", "type", "at", "received_at", "data"]
        read_only_fields = fields


class ArtifactSerializer(serializers.ModelSerializer[Artifact]):
    class Meta:
        model = Artifact
        fields = ["id", "kind", "name", "size", "sha256", "epoch", "stored_at"]
        read_only_fields = fields
