"""The environment of a trainer: every variable, defined once.

The platform builds a job's environment from `TrainerEnvironment`, the trainer parses its own with it, `runtrainer
--print-env` prints it and the table in docs/variables.md is generated from it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict

from trainer.contract.hyperparameters import hyperparameter_problems
from trainer.contract.tasks import MODELS, TaskType
from trainer.store import LocalStoreSettings, S3StoreSettings, StoreSettings

MASK = "********"
HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+\S*$")]


def _from_json(value: Any) -> Any:
    """Text as it comes from an environment; whoever builds one hands over the object itself."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f'is not JSON ({error}); write an object such as {{"mosaic": 0}}') from error


JsonObject = Annotated[dict[str, Any], BeforeValidator(_from_json)]
Group = Literal["job identity", "platform", "training", "storage", "minio", "r2", "MLflow", "machine"]


def _variable(default: Any = ..., *, group: Group, about: str, example: str = "", **bounds: Any) -> Any:
    extra: JsonDict = {"group": group, "example": example}
    return Field(default, description=about, json_schema_extra=extra, validate_default=False, **bounds)


class TrainingVariables(BaseModel):
    """The variables a person chooses for a job; the admin, the API and `runtrainer` validate with these."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    TASK_TYPE: TaskType = _variable(group="training", about="What is learnt", example="object_detection")
    MODEL_NAME: str = _variable(group="training", about="Model architecture; must fit the task", example="yolo11n")
    EPOCHS: int = _variable(group="training", about="Epochs to train", example="100", ge=1, le=100_000)
    BATCH_SIZE: int = _variable(group="training", about="Images in a batch", example="16", ge=1, le=8192)
    LEARNING_RATE: float = _variable(
        group="training", about="Initial learning rate", example="0.001", gt=0, le=10, allow_inf_nan=False
    )
    IMAGE_SIZE: int = _variable(
        640, group="training", about="Side of the square image, pixels", ge=32, le=8192, multiple_of=32
    )
    SEED: int = _variable(0, group="training", about="Seed of every random generator", ge=0, le=2**31 - 1)
    PRETRAINED: Literal["auto", "required", "never"] = _variable(
        "auto",
        group="training",
        about="Start from published weights: `auto` where they can be had, `required` or fail, `never`",
    )
    WEIGHTS: str = _variable(
        "",
        group="training",
        about="Weights to start from: a key in the store below weights/ or the project's own; "
        "empty looks for weights/<MODEL_NAME>.pt. A trainer run by hand takes a file's path too",
        pattern=r"^[^\x00-\x1f]{0,500}$",
    )
    CHECKPOINT_EVERY: int = _variable(
        0,
        group="training",
        about="Store the checkpoint of every so many epochs for good, beside the best and the last; 0 stores none",
        ge=0,
        le=100_000,
    )
    HYPERPARAMETERS: JsonObject = _variable(
        {}, group="training", about="Every other training argument, as a JSON object", example='{"mosaic": 0}'
    )

    @field_validator("EPOCHS", "BATCH_SIZE", "LEARNING_RATE", "IMAGE_SIZE", "SEED", "CHECKPOINT_EVERY", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("should be a number, not true or false")
        return value

    @field_validator("MODEL_NAME")
    @classmethod
    def _model_fits_task(cls, name: str, info: Any) -> str:
        task = info.data.get("TASK_TYPE")
        if task is not None and name not in MODELS[task]:
            raise ValueError(f"{name!r} is not a model for {task}; use one of {', '.join(MODELS[task])}")
        return name

    @field_validator("HYPERPARAMETERS")
    @classmethod
    def _hyperparameters_are_known(cls, values: dict[str, Any]) -> dict[str, Any]:
        if problems := hyperparameter_problems(values):
            raise ValueError("; ".join(problems))
        return values


class TrainerEnvironment(TrainingVariables):
    """Everything a trainer reads. Variables that are not listed here are left alone."""

    JOB_ID: int = _variable(group="job identity", about="The job", example="1", ge=1)
    PROJECT_ID: str = _variable(
        group="job identity", about="The job's project", example="abc123", pattern=r"^[A-Za-z0-9_-]{1,64}$"
    )
    ATTEMPT: int = _variable(1, group="job identity", about="Which attempt at the job this is", ge=1)

    CALLBACK_URL: HttpUrl | None = _variable(
        None,
        group="platform",
        about="Where status and metrics are sent; without it they stay in the spool file",
        example="http://backend/internal/training/1",
    )
    INTERNAL_AUTH_TOKEN: SecretStr | None = _variable(
        None, group="platform", about="Bearer token for the callback, good for this job and attempt alone"
    )

    DATASET_ID: UUID = _variable(group="training", about="The dataset", example="6a4c1c1e-7a0e-4a58-9a55-2f0c8b1d9c11")
    DATASET_VERSION: int = _variable(1, group="training", about="The dataset's version", ge=1)
    DATASET_SHA256: str = _variable(
        group="training",
        about="SHA-256 of what the version holds (trainer.dataset.manifest); its manifest's name in the store",
        example="9f86d081884c7d65…",
        pattern=r"^[0-9a-f]{64}$",
    )

    STORAGE_TYPE: Literal["local", "minio", "r2"] = _variable(
        "minio", group="storage", about="Which object store holds datasets and artifacts"
    )
    LOCAL_STORAGE_ROOT: Path | None = _variable(None, group="storage", about="Folder of the `local` store")
    ARTIFACT_PREFIX: str = _variable(
        "",
        group="storage",
        about="Key prefix of what this attempt stores; empty derives one from job and attempt",
    )
    MINIO_ENDPOINT: HttpUrl = _variable("http://localhost:9000", group="minio", about="S3 endpoint of MinIO")
    MINIO_ACCESS_KEY: SecretStr | None = _variable(None, group="minio", about="Access key")
    MINIO_SECRET_KEY: SecretStr | None = _variable(None, group="minio", about="Secret key")
    MINIO_BUCKET: str | None = _variable(None, group="minio", about="Bucket", example="trainyard")
    R2_ENDPOINT: HttpUrl | None = _variable(
        None,
        group="r2",
        about="S3 endpoint of Cloudflare R2",
        example="https://ACCOUNT.r2.cloudflarestorage.com",
    )
    R2_ACCESS_KEY_ID: SecretStr | None = _variable(None, group="r2", about="Access key id")
    R2_SECRET_ACCESS_KEY: SecretStr | None = _variable(None, group="r2", about="Secret access key")
    R2_BUCKET: str | None = _variable(None, group="r2", about="Bucket")

    MLFLOW_TRACKING_URI: str = _variable(
        "",
        group="MLflow",
        about="Tracking server or database; empty records nothing",
        example="http://mlflow:5000",
    )
    MLFLOW_EXPERIMENT_NAME: str = _variable(
        "",
        group="MLflow",
        about="Experiment; empty means `project-` and the project's id",
        example="project-abc123",
    )
    MLFLOW_ARTIFACT_ROOT: str = _variable(
        "", group="MLflow", about="Where a new experiment keeps artifacts; empty leaves it to the server"
    )
    MLFLOW_TRACKING_USERNAME: str | None = _variable(None, group="MLflow", about="User of the tracking server")
    MLFLOW_TRACKING_PASSWORD: SecretStr | None = _variable(
        None, group="MLflow", about="Password of the tracking server"
    )

    WORK_DIR: Path = _variable(Path("."), group="machine", about="Folder for the run's own files")
    CACHE_DIR: Path | None = _variable(
        None,
        group="machine",
        about="Folder for datasets shared by jobs on one machine; empty: inside WORK_DIR",
    )
    CACHE_MAX_GB: float = _variable(
        100,
        group="machine",
        about="GB that CACHE_DIR may grow to before the datasets that were not used longest are removed",
        gt=0,
        le=1_000_000,
    )
    WEIGHTS_DIR: Path | None = _variable(
        None, group="machine", about="Folder with published weights, looked in before the network"
    )
    LINGER_SECONDS: float = _variable(
        60,
        group="machine",
        about="How long an ended trainer waits for the platform to take its last messages",
        ge=0,
        le=7 * 24 * 3600,
    )
    LOG_FORMAT: Literal["auto", "json", "text"] = _variable(
        "auto", group="machine", about="`json` lines, readable `text`, or `auto`: text on a terminal"
    )

    @model_validator(mode="after")
    def _companions_are_there(self) -> Self:
        """Here for whoever builds the environment; `parse` reports these beside all other problems."""
        if problems := _missing_companions(self.to_environ()):
            raise ValueError("; ".join(problems))
        return self

    def to_environ(self) -> dict[str, str]:
        """The variables as a process gets them, secrets in clear. Unset ones are left out."""
        return {name: text for name in type(self).model_fields if (text := self._text(name)) is not None}

    def masked(self) -> dict[str, str]:
        """As `to_environ`, with secrets and passwords inside URLs hidden."""
        hidden = SECRET_NAMES
        return {k: MASK if k in hidden else without_password(v) for k, v in self.to_environ().items()}

    def _text(self, name: str) -> str | None:
        value = getattr(self, name)
        if value is None or value == "":
            return None
        if isinstance(value, SecretStr):
            return value.get_secret_value()
        if isinstance(value, dict):
            return json.dumps(value, sort_keys=True)
        return str(value)

    def __repr__(self) -> str:
        """Short, because URLs in it may hold passwords."""
        return f"<TrainerEnvironment of job {self.JOB_ID}, attempt {self.ATTEMPT}>"

    __str__ = __repr__

    @property
    def experiment_name(self) -> str:
        return self.MLFLOW_EXPERIMENT_NAME or f"project-{self.PROJECT_ID}"

    @property
    def artifact_prefix(self) -> str:
        return self.ARTIFACT_PREFIX or artifact_prefix(self.PROJECT_ID, self.JOB_ID, self.ATTEMPT)

    def store_settings(self) -> StoreSettings:
        """What `trainer.store.open_store` needs. The validators above have seen to it that nothing is missing."""
        return store_settings(self.to_environ())


def _is_secret(annotation: Any) -> bool:
    return "SecretStr" in str(annotation)


SECRET_NAMES = frozenset(
    name for name, field in TrainerEnvironment.model_fields.items() if _is_secret(field.annotation)
)

_COMPANIONS = {
    "local": ("LOCAL_STORAGE_ROOT",),
    "minio": ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MINIO_BUCKET"),
    "r2": ("R2_ENDPOINT", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "R2_BUCKET"),
}


class InvalidEnvironmentError(Exception):
    """The environment cannot be used; `problems` has every reason, each naming its variable."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def artifact_prefix(project_id: str, job_id: int, attempt: int) -> str:
    """The key prefix under which one attempt stores its files."""
    return f"projects/{project_id}/jobs/{job_id}/attempt-{attempt}"


def parse(environ: Mapping[str, str]) -> TrainerEnvironment:
    """Read a trainer's environment; empty variables count as unset.

    Raises:
        InvalidEnvironmentError: with every problem at once, not only the first.
    """
    given = {k: v for k, v in environ.items() if k in TrainerEnvironment.model_fields and v.strip() != ""}
    problems: list[str] = []
    try:
        return TrainerEnvironment.model_validate(given)
    except ValidationError as error:
        problems += [in_words(e) for e in error.errors() if e["loc"]]
    raise InvalidEnvironmentError(problems + _missing_companions(given))


def store_settings(environ: Mapping[str, str]) -> StoreSettings:
    """Store settings from the variables of the storage group, as the platform and the trainer both hold them."""
    kind = environ.get("STORAGE_TYPE", "minio")
    if kind == "local":
        return LocalStoreSettings(root=Path(environ["LOCAL_STORAGE_ROOT"]))
    if kind == "minio":
        return S3StoreSettings(
            type="minio",
            endpoint=environ.get("MINIO_ENDPOINT") or "http://localhost:9000",
            access_key=environ["MINIO_ACCESS_KEY"],
            secret_key=environ["MINIO_SECRET_KEY"],
            bucket=environ["MINIO_BUCKET"],
        )
    return S3StoreSettings(
        type="r2",
        endpoint=environ["R2_ENDPOINT"],
        access_key=environ["R2_ACCESS_KEY_ID"],
        secret_key=environ["R2_SECRET_ACCESS_KEY"],
        bucket=environ["R2_BUCKET"],
    )


def missing_store_variables(environ: Mapping[str, str]) -> list[str]:
    """Names of the variables that the chosen STORAGE_TYPE needs and `environ` lacks."""
    needed = _COMPANIONS.get(environ.get("STORAGE_TYPE", "minio"), ())
    return [name for name in needed if not environ.get(name)]


def _missing_companions(environ: Mapping[str, str]) -> list[str]:
    kind = environ.get("STORAGE_TYPE", "minio")
    problems = [f"{name}: is required when STORAGE_TYPE is {kind}" for name in missing_store_variables(environ)]
    if environ.get("CALLBACK_URL") and not environ.get("INTERNAL_AUTH_TOKEN"):
        problems.append("INTERNAL_AUTH_TOKEN: is required when CALLBACK_URL is set")
    return problems


def in_words(error: Any) -> str:
    """One pydantic error as `VARIABLE: what is wrong`. Values are not repeated: they may be secrets."""
    name = str(error["loc"][0])
    if error["type"] == "missing":
        about = TrainerEnvironment.model_fields[name].description
        return f"{name}: is required and not set ({about})"
    message = re.sub(r"^Value error, ", "", error["msg"])
    return f"{name}: {message[0].lower()}{message[1:]}" if not message.startswith("'") else f"{name}: {message}"


def without_password(text: str) -> str:
    """`text` with the password of a URL hidden: `postgresql://me:********@host/db`."""
    if "://" not in text or "@" not in text:
        return text
    parts = urlsplit(text)
    if parts.password is None:
        return text
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:{MASK}@{host}"))
