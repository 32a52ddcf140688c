"""The environment of a job's trainer, built in this one place for every executor."""

from django.conf import settings

from apps.jobs.models import Job
from apps.jobs.tokens import token_for
from trainer.contract.variables import TrainerEnvironment, artifact_prefix


def build_environment(job: Job, attempt: int, platform_url: str = "") -> TrainerEnvironment:
    """What attempt number `attempt` of `job` is told. Secrets are inside: show `masked()`, launch `to_environ()`.

    `platform_url` is where the platform answers, PLATFORM_URL unless given.

    Raises:
        pydantic.ValidationError: a setting or a field of the job no longer fits the contract.
    """
    version = job.dataset_version
    values = {
        **_training(job),
        **_storage(),
        **_mlflow(job),
        "JOB_ID": job.pk,
        "PROJECT_ID": job.project_id,
        "ATTEMPT": attempt,
        "CALLBACK_URL": f"{platform_url or settings.PLATFORM_URL}/internal/training/{job.pk}",
        "INTERNAL_AUTH_TOKEN": token_for(job.pk, attempt),
        "DATASET_ID": version.dataset_id,
        "DATASET_VERSION": version.number,
        "DATASET_SHA256": version.sha256,
        "ARTIFACT_PREFIX": artifact_prefix(job.project_id, job.pk, attempt),
        "CACHE_DIR": settings.CACHE_DIR,
        "CACHE_MAX_GB": settings.CACHE_MAX_GB,
        "WEIGHTS_DIR": settings.WEIGHTS_DIR,
        "LINGER_SECONDS": settings.LINGER_SECONDS,
        "LOG_FORMAT": "json",
    }
    return TrainerEnvironment.model_validate({k: v for k, v in values.items() if v not in ("", None)})


def _training(job: Job) -> dict[str, object]:
    return {
        "TASK_TYPE": job.task_type,
        "MODEL_NAME": job.model_name,
        "EPOCHS": job.epochs,
        "BATCH_SIZE": job.batch_size,
        "LEARNING_RATE": job.learning_rate,
        "IMAGE_SIZE": job.image_size,
        "SEED": job.seed,
        "PRETRAINED": job.pretrained,
        "WEIGHTS": job.weights,
        "CHECKPOINT_EVERY": job.checkpoint_every,
        "HYPERPARAMETERS": job.hyperparameters,
    }


def _storage() -> dict[str, object]:
    """Only the variables of the store in use: a trainer is not handed keys that it does not need."""
    kind = settings.STORE_ENVIRONMENT["STORAGE_TYPE"]
    prefix = {"local": "LOCAL_", "minio": "MINIO_", "r2": "R2_"}[kind]
    return {k: v for k, v in settings.STORE_ENVIRONMENT.items() if k == "STORAGE_TYPE" or k.startswith(prefix)}


def _mlflow(job: Job) -> dict[str, object]:
    if settings.MLFLOW_TRACKING_URI == "off":
        return {}
    return {
        "MLFLOW_TRACKING_URI": settings.MLFLOW_TRACKING_URI,
        "MLFLOW_EXPERIMENT_NAME": job.project.experiment_name,
        "MLFLOW_ARTIFACT_ROOT": mlflow_artifact_root(),
        "MLFLOW_TRACKING_USERNAME": settings.MLFLOW_TRACKING_USERNAME,
        "MLFLOW_TRACKING_PASSWORD": settings.MLFLOW_TRACKING_PASSWORD,
    }


def mlflow_artifact_root() -> str:
    """Where experiments in an MLflow database of our own keep their files; a server decides for itself."""
    if settings.MLFLOW_TRACKING_URI.startswith("http"):
        return ""
    return (settings.DATA_DIR / "mlflow" / "artifacts").as_uri()
