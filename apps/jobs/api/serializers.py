"""What the API shows of projects, datasets, jobs and attempts. Nothing here writes."""

from rest_framework import serializers

from apps.jobs.models import Artifact, Attempt, EpochMetrics, Event, Job, StatusChange
from apps.projects.models import Project
from apps.storage.models import Dataset, DatasetVersion


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

    class Meta:
        model = DatasetVersion
        fields = ["number", "sha256", "size", "class_names", "images", "instances", "created_at"]
        read_only_fields = fields


class DatasetSerializer(serializers.ModelSerializer[Dataset]):
    project_name = serializers.CharField(source="project.name", read_only=True)
    versions = DatasetVersionSerializer(many=True, read_only=True, help_text="Newest first.")

    class Meta:
        model = Dataset
        fields = ["id", "name", "project", "project_name", "task_type", "created_at", "versions"]
        read_only_fields = fields


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

    attempts = AttemptSerializer(many=True, read_only=True, help_text="Newest first.")
    history = StatusChangeSerializer(source="status_changes", many=True, read_only=True, help_text="Newest first.")

    class Meta(JobSerializer.Meta):
        fields = [*JobSerializer.Meta.fields, "attempts", "history"]


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
