"""The verbs on jobs. The admin, the API, `runtrainer` and the demo call these and nothing else."""

from typing import Any

from django.contrib.auth.models import AbstractUser
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from pydantic import ValidationError

from apps.jobs import tasks, transitions
from apps.jobs.errors import IllegalMoveError, InvalidJobError, NotAllowedError
from apps.jobs.models import Artifact, Job, StatusChange
from apps.jobs.states import EndReason, State
from apps.projects.models import Project
from apps.projects.rights import Right, may
from apps.storage.models import Dataset, DatasetVersion
from trainer.contract.variables import TrainingVariables, in_words
from trainer.store import InvalidKeyError, check_key

_NAME_LENGTH = 100
_PRIORITY_LIMIT = 1_000_000
# What a person chooses, named as the contract's variables in lower case.
TRAINING_FIELDS = tuple(name.lower() for name in TrainingVariables.model_fields)


def submit(
    *,
    project: Project,
    dataset: Dataset | DatasetVersion,
    by: AbstractUser,
    name: str = "",
    priority: int = 0,
    cloned_from: Job | None = None,
    **training: Any,
) -> Job:
    """Make a job and put it in the queue. `training` holds TRAINING_FIELDS; those left out take their defaults.

    A Dataset is pinned to its newest version without errors now; what is imported later does not change this job.

    Raises:
        NotAllowedError: `by` may not train in `project`.
        InvalidJobError: with every problem, by field. Nothing was written.
    """
    if not may(by, Right.TRAIN, project):
        raise NotAllowedError(_("You may not run jobs in project %(project)s.") % {"project": project})
    problems, chosen = _checked_training(training)
    problems |= _checked_labels(name, priority)
    if unusable := _unusable_weights(project, str(training.get("weights") or "")):
        problems.setdefault("weights", []).append(unusable)
    version, trouble = _pinned_version(project, dataset, training.get("task_type"))
    if trouble:
        problems.setdefault("dataset", []).append(trouble)
    if problems or version is None:
        raise InvalidJobError(problems)
    with transaction.atomic():
        _require_weights_are_kept(chosen["weights"])
        job = Job.objects.create(
            project=project,
            dataset_version=version,
            created_by_id=by.pk,
            name=name,
            priority=priority,
            cloned_from=cloned_from,
            **chosen,
        )
        # Asked once the row is written: from then on, whoever deletes the version finds the job (`versions._hide`).
        if not DatasetVersion.objects.filter(pk=version.pk).exists():
            raise InvalidJobError({"dataset": [_("was deleted just now: choose another version")]})
        StatusChange.objects.create(job=job, new=State.QUEUED, actor=by.get_username(), reason="submitted")
        transaction.on_commit(tasks.wake_dispatcher)
    return job


def cancel(job: Job, *, by: AbstractUser) -> Job:
    """End a waiting job at once; ask the trainer of an active one to stop, which saves its last checkpoint.

    Raises:
        NotAllowedError, IllegalMoveError: no right; the job has ended or is being cancelled already.
    """
    _require(by, job)
    actor = by.get_username()
    while True:
        _require_cancellable(job)
        if job.state == State.QUEUED:
            moved = transitions.end(job, EndReason.CANCELLED, by=actor, message=_("Cancelled while it waited."))
        else:
            with transaction.atomic():
                moved = transitions.move(job, State.CANCELLING, by=actor, reason="cancel")
                if moved:
                    transaction.on_commit(lambda: tasks.wake_reconciler())
        if moved:
            return job
        job.refresh_from_db()  # it moved on meanwhile: judge it by its new state


def retry(job: Job, *, by: AbstractUser) -> Job:
    """Queue a job that failed or was cancelled again, as a new attempt from the start.

    Raises:
        NotAllowedError, IllegalMoveError: no right; the job has not ended, or it succeeded.
        InvalidJobError: the checkpoint that it starts from has been removed.
    """
    _require(by, job)
    if not job.ended:  # the table has moves back to the queue that are the platform's alone
        state = job.get_state_display().lower()
        raise IllegalMoveError(_("%(job)s is %(state)s and has not ended.") % {"job": job, "state": state})
    with transaction.atomic():
        _require_weights_are_kept(job.weights)
        moved = transitions.move(
            job,
            State.QUEUED,
            by=by.get_username(),
            reason="retry",
            queued_at=timezone.now(),
            started_at=None,
            ended_at=None,
            end_reason="",
            end_message="",
            **LIVE_FIELDS_AT_START,
        )
        transaction.on_commit(tasks.wake_dispatcher)
    if not moved:
        job.refresh_from_db()
        now = job.get_state_display().lower()
        raise IllegalMoveError(_("%(job)s has moved on: it is %(state)s now.") % {"job": job, "state": now})
    return job


def clone(job: Job, *, by: AbstractUser, **changes: Any) -> Job:
    """Submit a new job like `job`, on the same dataset version, with `changes` of its fields."""
    values = {field: getattr(job, field) for field in TRAINING_FIELDS}
    values |= {"name": job.name, "priority": job.priority, "dataset": job.dataset_version}
    return submit(project=job.project, by=by, cloned_from=job, **{**values, **changes})


# What the trainer says anew in every attempt.
LIVE_FIELDS_AT_START: dict[str, Any] = {
    "last_message_at": None,
    "phase": "",
    "epoch": 0,
    "fraction": 0.0,
    "expected_end_at": None,
    "losses": {},
    "best_epoch": None,
    "best_fitness": None,
    "best_metrics": {},
}


def _require_cancellable(job: Job) -> None:
    state = job.get_state_display().lower()
    if job.ended:
        raise IllegalMoveError(_("%(job)s has ended (%(state)s): nothing to cancel.") % {"job": job, "state": state})
    if job.state == State.CANCELLING:
        raise IllegalMoveError(_("%(job)s is %(state)s already.") % {"job": job, "state": state})


def _require(by: AbstractUser, job: Job) -> None:
    if not may(by, Right.TRAIN, job.project):
        raise NotAllowedError(_("You may not change jobs of project %(project)s.") % {"project": job.project})


def _checked_training(training: dict[str, Any]) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Problems by field, and the fields with defaults filled in, by the contract's own definition."""
    given = {name.upper(): value for name, value in training.items() if value is not None}
    unknown = sorted(name for name in training if name not in TRAINING_FIELDS)
    problems = {name: [_("is not a field of a job")] for name in unknown}
    try:
        checked = TrainingVariables.model_validate(given)
    except ValidationError as error:
        for each in error.errors():
            field, _colon, text = in_words(each).partition(": ")
            problems.setdefault(field.lower(), []).append(text)
        return problems, {}
    return problems, {name.lower(): value for name, value in checked.model_dump(mode="json").items()}


def _checked_labels(name: str, priority: int) -> dict[str, list[str]]:
    """What the database would refuse without saying why."""
    problems: dict[str, list[str]] = {}
    if len(name) > _NAME_LENGTH or not name.isprintable():
        problems["name"] = [_("must be one line of at most %(length)s characters") % {"length": _NAME_LENGTH}]
    if abs(priority) > _PRIORITY_LIMIT:
        problems["priority"] = [_("must be between -%(limit)s and %(limit)s") % {"limit": _PRIORITY_LIMIT}]
    return problems


def _unusable_weights(project: Project, weights: str) -> str:
    """A weights file is code that the trainer loads, and may be another project's property: only known places."""
    if not weights:
        return ""
    own = ("weights/", f"projects/{project.pk}/")
    try:
        if check_key(weights).startswith(own):
            return ""
    except InvalidKeyError as error:
        return str(error)
    places = {"first": own[0], "second": own[1]}
    return _("must be a key in the store that begins with %(first)s or %(second)s") % places


def _require_weights_are_kept(weights: str) -> None:
    """Refuse a checkpoint that retention has removed. It takes the same lock: either sees the other's work."""
    named = Artifact.objects.select_for_update().filter(key=weights) if weights else ()
    if any(artifact.removed_at for artifact in named):
        problem = _("has been removed, as the project's rules of retention say: choose another checkpoint")
        raise InvalidJobError({"weights": [problem]})


def _pinned_version(
    project: Project, dataset: Dataset | DatasetVersion, task_type: object
) -> tuple[DatasetVersion | None, str]:
    owner = dataset.dataset if isinstance(dataset, DatasetVersion) else dataset
    version = dataset if isinstance(dataset, DatasetVersion) else dataset.latest
    if owner.project_id != project.pk:
        return None, _("belongs to another project")
    if task_type and owner.task_type != task_type:
        return None, _("is labelled for %(its)s, not for %(task)s") % {
            "its": owner.task_type,
            "task": task_type,
        }
    if version is None or not version.trainable:
        return None, _why_not_trainable(owner, version)
    return version, ""


def _why_not_trainable(dataset: Dataset, version: DatasetVersion | None) -> str:
    """`version` is the one asked for; None where it was left to the dataset."""
    bad = version or dataset.versions.order_by("-number").first()
    if bad is None:
        return _("has no version yet: import its data first")
    if version is None:
        text = ngettext(
            "has no version that can be trained on: the newest, %(version)s, has %(n)d error; mend it and import again",
            "has no version that can be trained on: the newest, %(version)s, has %(n)d errors; mend them and import "
            "again",
            bad.errors,
        )
    else:
        text = ngettext(
            "%(version)s has %(n)d error and cannot be trained on: mend it and import again",
            "%(version)s has %(n)d errors and cannot be trained on: mend them and import again",
            bad.errors,
        )
    told = text % {"version": f"v{bad.number}", "n": bad.errors}
    other = dataset.latest
    return _("%(told)s, or choose %(other)s") % {"told": told, "other": f"v{other.number}"} if other else told
