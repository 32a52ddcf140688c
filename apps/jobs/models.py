"""Jobs, their attempts, and what trainers said about them."""

import secrets
from datetime import timedelta

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from apps.jobs.states import ACTIVE, ENDED, EndReason, State
from apps.projects.models import Project
from apps.storage.models import TASK_CHOICES, DatasetVersion
from trainer.contract.tasks import MAIN_METRICS, TaskType

PRETRAINED_CHOICES = [
    ("auto", _("Where they can be had")),
    ("required", _("Required")),
    ("never", _("Never: start from random weights")),
]


class Job(models.Model):
    """One training that somebody asked for. Fields of the contract are named as its variables, in lower case."""

    name = models.CharField(_("name"), max_length=100, blank=True)
    project = models.ForeignKey(Project, models.PROTECT, related_name="jobs", verbose_name=_("project"))
    dataset_version = models.ForeignKey(
        DatasetVersion, models.PROTECT, related_name="jobs", verbose_name=_("dataset version")
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="jobs", verbose_name=_("owner")
    )
    cloned_from = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, related_name="clones", verbose_name=_("cloned from")
    )

    task_type = models.CharField(_("task"), max_length=32, choices=TASK_CHOICES)
    model_name = models.CharField(_("model"), max_length=64)
    epochs = models.PositiveIntegerField(_("epochs"), default=100)
    batch_size = models.PositiveIntegerField(_("batch size"), default=16)
    learning_rate = models.FloatField(_("learning rate"), default=0.001)
    image_size = models.PositiveIntegerField(_("image size"), default=640)
    seed = models.PositiveIntegerField(_("seed"), default=0)
    pretrained = models.CharField(_("published weights"), max_length=16, choices=PRETRAINED_CHOICES, default="auto")
    weights = models.CharField(_("weights"), max_length=500, blank=True)
    checkpoint_every = models.PositiveIntegerField(_("checkpoint every"), default=0)
    hyperparameters = models.JSONField(_("hyper-parameters"), default=dict, blank=True)

    priority = models.IntegerField(_("priority"), default=0, help_text=_("Higher goes first."))
    state = models.CharField(_("state"), max_length=16, choices=State.choices, default=State.QUEUED)
    end_reason = models.CharField(_("reason"), max_length=32, choices=EndReason.choices, blank=True)
    end_message = models.TextField(_("what happened"), blank=True)
    pending_reason = models.CharField(_("why it waits"), max_length=300, blank=True)
    attempt_number = models.PositiveIntegerField(_("attempt"), default=0)

    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    queued_at = models.DateTimeField(_("queued"), default=timezone.now)
    started_at = models.DateTimeField(_("started"), null=True, blank=True)
    ended_at = models.DateTimeField(_("ended"), null=True, blank=True)

    # What the current attempt said last; the history is in Event and EpochMetrics.
    last_message_at = models.DateTimeField(_("last seen"), null=True, blank=True)
    phase = models.CharField(_("phase"), max_length=32, blank=True)
    epoch = models.PositiveIntegerField(_("epoch"), default=0, help_text=_("Epochs finished"))
    fraction = models.FloatField(_("progress"), default=0)
    expected_end_at = models.DateTimeField(_("expected end"), null=True, blank=True)
    losses = models.JSONField(_("losses"), default=dict, blank=True)
    best_epoch = models.PositiveIntegerField(_("best epoch"), null=True, blank=True)
    best_fitness = models.FloatField(_("best fitness"), null=True, blank=True)
    best_metrics = models.JSONField(_("best metrics"), default=dict, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("job")
        verbose_name_plural = _("jobs")
        indexes = [
            # The list of a state, newest first; the queue; the list of a project.
            models.Index(fields=["state", "-id"], name="job_state"),
            models.Index(fields=["-priority", "queued_at", "id"], name="job_queue", condition=Q(state=State.QUEUED)),
            models.Index(fields=["project", "-id"], name="job_project"),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=State.values), name="job_state_is_known"),
            models.CheckConstraint(
                condition=Q(state__in=sorted(ENDED)) | Q(end_reason=""),
                name="only_an_ended_job_has_an_end_reason",
            ),
        ]

    def __str__(self) -> str:
        return f"{_('Job')} {self.pk}" + (f" · {self.name}" if self.name else "")

    def get_absolute_url(self) -> str:
        return reverse("admin:jobs_job_change", args=[self.pk])

    @property
    def current_attempt(self) -> "Attempt | None":
        return self.attempts.filter(number=self.attempt_number).first()

    @property
    def best_scores(self) -> list[tuple[str, float | None]]:
        """The main metrics of the job's task in its best epoch, under their short names; empty before there is one."""
        if not self.best_metrics:
            return []
        return [(label, self.best_metrics.get(name)) for name, label in MAIN_METRICS[TaskType(self.task_type)].items()]

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    @property
    def eta(self) -> timedelta | None:
        """Time left as the trainer expects it, or None where it cannot be told."""
        if self.expected_end_at is None or not self.active:
            return None
        return max(self.expected_end_at - timezone.now(), timedelta(0))


def new_suffix() -> str:
    return secrets.token_hex(3)


class Attempt(models.Model):
    """One trainer process or pod for a job. It holds its slot until `ended_at`: known dead, not only done."""

    job = models.ForeignKey(Job, models.CASCADE, related_name="attempts", verbose_name=_("job"))
    number = models.PositiveIntegerField(_("attempt"))
    suffix = models.CharField(max_length=8, default=new_suffix, editable=False)
    slot = models.CharField(_("slot"), max_length=64, blank=True)
    devices = models.JSONField(_("GPUs"), default=list, blank=True)
    executor = models.CharField(_("executor"), max_length=200)
    reference = models.CharField(_("reference"), max_length=500, blank=True)
    node = models.CharField(_("node"), max_length=200, blank=True)
    log_location = models.CharField(_("log"), max_length=500, blank=True)

    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    started_at = models.DateTimeField(_("first message"), null=True, blank=True)
    last_message_at = models.DateTimeField(_("last message"), null=True, blank=True)
    stop_requested_at = models.DateTimeField(_("stop requested"), null=True, blank=True)
    ended_at = models.DateTimeField(_("ended"), null=True, blank=True)
    exit_code = models.IntegerField(_("exit code"), null=True, blank=True)
    signal = models.IntegerField(_("signal"), null=True, blank=True)
    evidence = models.TextField(_("evidence"), blank=True)
    cleaned_at = models.DateTimeField(_("working files removed"), null=True, blank=True)

    acked_seq = models.BigIntegerField(
        _("messages complete up to"), default=0, help_text=_("Every message up to this number has arrived.")
    )
    progress_seq = models.BigIntegerField(default=0, editable=False)
    mlflow_experiment_id = models.CharField(_("MLflow experiment"), max_length=64, blank=True)
    mlflow_run_id = models.CharField(_("MLflow run"), max_length=64, blank=True)
    versions = models.JSONField(_("versions"), default=dict, blank=True)

    class Meta:
        ordering = ["-number"]
        verbose_name = _("attempt")
        verbose_name_plural = _("attempts")
        constraints = [
            models.UniqueConstraint(fields=["job", "number"], name="attempt_number_unique"),
            # The database itself sees to it that a job has one trainer and a slot one tenant.
            models.UniqueConstraint(fields=["job"], condition=Q(ended_at=None), name="one_live_attempt_per_job"),
            models.UniqueConstraint(
                fields=["slot"], condition=Q(ended_at=None) & ~Q(slot=""), name="one_live_attempt_per_slot"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """The name an executor launches it under, unique for ever: a new database counts its jobs from 1 again."""
        return f"job-{self.job_id}-attempt-{self.number}-{self.suffix}"


class Event(models.Model):
    """A message of a trainer, as it came."""

    attempt = models.ForeignKey(Attempt, models.CASCADE, related_name="events", verbose_name=_("attempt"))
    seq = models.BigIntegerField(_("number"))
    type = models.CharField(_("type"), max_length=16)
    at = models.DateTimeField(_("said"))
    received_at = models.DateTimeField(_("received"), default=timezone.now)
    data = models.JSONField(_("content"), default=dict)

    class Meta:
        ordering = ["-seq"]
        verbose_name = _("event")
        verbose_name_plural = _("events")
        constraints = [models.UniqueConstraint(fields=["attempt", "seq"], name="event_once")]

    def __str__(self) -> str:
        return f"{self.attempt} #{self.seq} {self.type}"


class EpochMetrics(models.Model):
    """The metrics of one epoch. An epoch that was repeated counts as it was last said."""

    attempt = models.ForeignKey(Attempt, models.CASCADE, related_name="epoch_metrics", verbose_name=_("attempt"))
    epoch = models.PositiveIntegerField(_("epoch"))
    seq = models.BigIntegerField(editable=False)
    at = models.DateTimeField(_("said"))
    seconds = models.FloatField(_("seconds"), default=0)
    metrics = models.JSONField(_("metrics"), default=dict)

    class Meta:
        ordering = ["epoch"]
        verbose_name = _("epoch metrics")
        verbose_name_plural = _("epoch metrics")
        constraints = [models.UniqueConstraint(fields=["attempt", "epoch"], name="epoch_once")]

    def __str__(self) -> str:
        return f"{self.attempt} epoch {self.epoch}"


class Artifact(models.Model):
    """A file of an attempt that lies complete in the store.

    One that retention removes is marked first (`removed_at`), and from then on nobody is shown it. Only then does it
    go from the store (`deleted_at`). The row stays: a message that comes again must not bring it back.
    """

    attempt = models.ForeignKey(Attempt, models.CASCADE, related_name="artifacts", verbose_name=_("attempt"))
    kind = models.CharField(_("kind"), max_length=16)
    name = models.CharField(_("name"), max_length=200)
    key = models.CharField(_("key"), max_length=500)
    size = models.BigIntegerField(_("size"))
    sha256 = models.CharField(_("SHA-256"), max_length=64)
    epoch = models.PositiveIntegerField(_("epoch"), null=True, blank=True)
    seq = models.BigIntegerField(editable=False)
    stored_at = models.DateTimeField(_("stored"))
    removed_at = models.DateTimeField(_("removed"), null=True, blank=True, editable=False)
    deleted_at = models.DateTimeField(_("deleted from the store"), null=True, blank=True, editable=False)

    class Meta:
        ordering = ["kind", "name"]
        verbose_name = _("artifact")
        verbose_name_plural = _("artifacts")
        constraints = [models.UniqueConstraint(fields=["attempt", "name"], name="artifact_name_once")]
        # Whoever starts from a checkpoint names it by its key.
        indexes = [models.Index(fields=["key"], name="artifact_key")]

    def __str__(self) -> str:
        return self.name


class StatusChange(models.Model):
    """One move of a job from state to state, who made it, and on what evidence."""

    job = models.ForeignKey(Job, models.CASCADE, related_name="status_changes", verbose_name=_("job"))
    attempt_number = models.PositiveIntegerField(_("attempt"), default=0)
    old = models.CharField(_("from"), max_length=16, choices=State.choices, blank=True)
    new = models.CharField(_("to"), max_length=16, choices=State.choices)
    at = models.DateTimeField(_("at"), default=timezone.now)
    actor = models.CharField(_("by"), max_length=150)
    reason = models.CharField(_("reason"), max_length=32, blank=True)
    evidence = models.TextField(_("evidence"), blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("status change")
        verbose_name_plural = _("status changes")

    def __str__(self) -> str:
        return f"{self.job}: {self.old} → {self.new}"
