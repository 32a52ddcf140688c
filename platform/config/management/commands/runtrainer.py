"""`manage.py runtrainer`: a training from a shell."""

import argparse
import json
import shlex
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Q
from rich.console import Console

from apps.jobs import following, services
from apps.jobs.environment import build_environment
from apps.jobs.errors import JobError
from apps.jobs.models import Job
from apps.jobs.states import State
from apps.projects.models import Project
from apps.storage.errors import StorageError
from apps.storage.selectors import find_dataset, find_version
from config import local_services
from trainer.contract.variables import TrainingVariables


class Command(BaseCommand):
    help = "Submit a training and follow it, follow or run again an existing one, or print a job's environment."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("job", nargs="?", type=int, help="An existing job: run again if it failed or was cancelled")
        parser.add_argument("--print-env", type=int, metavar="ID", help="Print the environment of job ID and exit")
        parser.add_argument("--show-secrets", action="store_true", help="With --print-env: do not mask secrets")
        parser.add_argument(
            "--by-hand",
            action="store_true",
            help="With --print-env: for a repetition that reports to nobody and keeps its files apart from the job's",
        )
        parser.add_argument("--follow", action="store_true", help="Stay and show progress until the job ends")
        parser.add_argument("--user", help="On whose behalf (default: the first superuser)")
        parser.add_argument("--project", help="Name or id of the project")
        parser.add_argument("--dataset", help="Name or id of the dataset")
        parser.add_argument(
            "--dataset-version", type=int, metavar="N", help="Its version (default: the newest without errors)"
        )
        parser.add_argument("--name", default="", help="A name for the job")
        parser.add_argument("--priority", type=int, default=0, help="Higher goes first")
        for option, variable, kind in _TRAINING_OPTIONS:
            about = (TrainingVariables.model_fields[variable].description or "").replace("%", "%%")
            parser.add_argument(option, dest=variable.lower(), type=kind, help=about, default=argparse.SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        if options["print_env"] is not None:
            shown = {"show_secrets": options["show_secrets"], "by_hand": options["by_hand"]}
            self._print_environment(_job(options["print_env"]), **shown)
            return
        try:
            job = self._existing(options) if options["job"] else self._submit(options)
        except (JobError, StorageError) as error:
            raise CommandError(str(error)) from error
        if options["follow"]:
            self._follow(job)
        elif not job.ended and local_services.running_at() is None:
            self.stderr.write("The platform is not running here: start it with `make serve`, or add --follow.")

    def _submit(self, options: dict[str, Any]) -> Job:
        if not options["project"] or not options["dataset"]:
            raise CommandError("Name a --project and a --dataset, or give the id of an existing job.")
        project = Project.objects.filter(Q(pk=options["project"]) | Q(name=options["project"])).first()
        if project is None:
            names = ", ".join(Project.objects.values_list("name", flat=True)[:20]) or "none yet"
            raise CommandError(f"No project {options['project']!r}; there are: {names}.")
        job = services.submit(
            project=project,
            dataset=find_version(find_dataset(project, options["dataset"]), options["dataset_version"]),
            by=_user(options["user"]),
            name=options["name"],
            priority=options["priority"],
            **{field: options[field] for field in services.TRAINING_FIELDS if field in options},
        )
        version = job.dataset_version
        self.stdout.write(f"Job {job.pk} is in the queue. It trains on {version}.")
        for newer in version.dataset.versions.filter(number__gt=version.number, errors__gt=0)[:1]:
            if options["dataset_version"] is None:
                self.stdout.write(f"{newer} is newer and cannot be trained on: it has errors ({newer.errors}).")
        return job

    def _existing(self, options: dict[str, Any]) -> Job:
        job = _job(options["job"])
        if given := [field for field in services.TRAINING_FIELDS if field in options]:
            raise CommandError(
                f"Job {job.pk} exists and keeps its settings ({', '.join(given)}); leave its id out to submit another."
            )
        if job.state in (State.FAILED, State.CANCELLED):
            services.retry(job, by=_user(options["user"]))
            self.stdout.write(f"Job {job.pk} is in the queue again, as attempt {job.attempt_number + 1}.")
        elif not options["follow"]:
            self.stdout.write(following.progress_line(job).plain)
        return job

    def _follow(self, job: Job) -> None:
        """With nothing running here, the services are there for as long as the job is."""
        console = Console()
        try:
            with local_services.running():
                job = following.follow(job.pk, console)
        except local_services.ServicesError as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            job.refresh_from_db()
            raise CommandError(
                f"Job {job.pk} stays {job.get_state_display().lower()}; a trainer that runs goes on by itself. "
                f"See it again with: manage.py runtrainer {job.pk} --follow",
                returncode=130,
            ) from None
        following.report(job, console)
        if job.state != State.SUCCEEDED:
            raise CommandError(f"Job {job.pk} {job.get_state_display().lower()}.", returncode=1)

    def _print_environment(self, job: Job, *, show_secrets: bool, by_hand: bool) -> None:
        """`by_hand` leaves out what would make a repetition pass for the job itself: callback, MLflow, its files."""
        url = local_services.running_at() or ""
        environment = build_environment(job, max(job.attempt_number, 1), url)
        if by_hand:
            left_out = {
                "CALLBACK_URL": None,
                "INTERNAL_AUTH_TOKEN": None,
                "MLFLOW_TRACKING_URI": "",
                "LOG_FORMAT": "auto",
            }
            environment = environment.model_copy(update={**left_out, "ARTIFACT_PREFIX": f"by-hand/job-{job.pk}"})
        for name, value in (environment.to_environ() if show_secrets else environment.masked()).items():
            self.stdout.write(f"{name}={shlex.quote(value)}")
        attempt = job.current_attempt
        if attempt is not None and settings.EXECUTOR == "subprocess":
            # Not the contract's but the executor's: the GPUs leased to the attempt, none for the CPU.
            self.stdout.write(f"CUDA_VISIBLE_DEVICES={shlex.quote(','.join(attempt.devices))}")


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(
            f"is not JSON ({error}); write an object such as '{{\"mosaic\": 0}}'"
        ) from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object such as '{\"mosaic\": 0}'")
    return value


_TRAINING_OPTIONS = (
    ("--task", "TASK_TYPE", str),
    ("--model", "MODEL_NAME", str),
    ("--epochs", "EPOCHS", int),
    ("--batch-size", "BATCH_SIZE", int),
    ("--learning-rate", "LEARNING_RATE", float),
    ("--image-size", "IMAGE_SIZE", int),
    ("--seed", "SEED", int),
    ("--pretrained", "PRETRAINED", str),
    ("--weights", "WEIGHTS", str),
    ("--checkpoint-every", "CHECKPOINT_EVERY", int),
    ("--hyperparameters", "HYPERPARAMETERS", _json),
)


def _job(job_id: int) -> Job:
    job = Job.objects.select_related("project", "dataset_version").filter(pk=job_id).first()
    if job is None:
        raise CommandError(f"There is no job {job_id}.")
    return job


def _user(name: str | None) -> AbstractUser:
    users = get_user_model().objects.order_by("pk")
    user = users.filter(username=name).first() if name else users.filter(is_superuser=True).first()
    if user is None:
        raise CommandError(f"There is no user {name!r}." if name else "There is no superuser: run createsuperuser.")
    return user
