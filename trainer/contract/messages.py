"""What a trainer tells the platform, and what the platform answers.

One request carries many events: `{"attempt": 1, "events": [{"seq": 1, "type": "started", "at": ..., "data": {}}]}`.
`seq` counts from 1 within an attempt, so replayed or reordered events are recognised. The answer is
`{"acked": 1, "command": "continue"}`: every event up to `acked` may be forgotten.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from trainer.contract.exits import FailureReason

MAX_BODY_BYTES = 1024 * 1024
MAX_EVENTS = 500


def _without_nul(text: str) -> str:
    """PostgreSQL keeps no NUL, and a traceback may hold whatever a file held."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is beyond the calendar") from error


# What a database's integer column holds.
MAX_COUNT = 2**31 - 1
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Text = Annotated[str, Field(max_length=20_000), AfterValidator(_without_nul)]
ShortText = Annotated[str, Field(max_length=500), AfterValidator(_without_nul)]
Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class Phase(StrEnum):
    """What a trainer is busy with."""

    PREPARING = "preparing"
    DOWNLOADING = "downloading data"
    BUILDING = "building"
    TRAINING = "training"
    VALIDATING = "validating"
    UPLOADING = "uploading"


class ArtifactKind(StrEnum):
    """What a stored file is."""

    BEST = "best"
    LAST = "last"
    CHECKPOINT = "checkpoint"
    PLOT = "plot"
    RESULTS = "results"


class Command(StrEnum):
    """What the platform wants the trainer to do next."""

    CONTINUE = "continue"
    STOP = "stop"


class _Data(BaseModel):
    # A newer trainer may say more than this platform knows: what is unknown is left aside, not refused.
    # Neither database nor JSON has a word for NaN.
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Started(_Data):
    """The trainer runs and has read its environment."""

    host: ShortText = ""
    pid: int = 0
    device: ShortText = ""
    versions: dict[ShortText, ShortText] = {}


class Progress(_Data):
    """A heartbeat, with what a person wants to see. Sent every few seconds."""

    phase: Phase
    epoch: Count | None = Field(None, description="The epoch under way, from 1")
    epochs: Count | None = None
    fraction: float | None = Field(None, ge=0, le=1, description="Share of the whole job that is done")
    eta_seconds: float | None = Field(None, ge=0)
    losses: dict[ShortText, float | None] = {}
    note: ShortText = ""
    mlflow_experiment_id: Annotated[str, Field(max_length=64, pattern=r"^[^\x00]*$")] = ""
    mlflow_run_id: Annotated[str, Field(max_length=64, pattern=r"^[^\x00]*$")] = ""


class Epoch(_Data):
    """One finished epoch with its validation. NaN and infinity travel as null."""

    epoch: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    epochs: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    seconds: float = Field(0, ge=0)
    metrics: dict[ShortText, float | None]


class ArtifactStored(_Data):
    """A file lies complete in the store."""

    kind: ArtifactKind
    name: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]+$")]
    key: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]+$")]
    size: Annotated[int, Field(ge=0, le=2**63 - 1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    epoch: Count | None = None


class Finished(_Data):
    """Training ended as planned. `metrics` are those of the best checkpoint."""

    epochs: Count
    seconds: float = Field(ge=0)
    metrics: dict[ShortText, float | None] = {}
    note: ShortText = ""


class Failed(_Data):
    """Training ended with an error."""

    reason: FailureReason
    message: Text
    traceback: Text = ""


class Interrupted(_Data):
    """Training stopped because it was told to; the last checkpoint is in the store."""

    by: ShortText
    epoch: Count | None = None


class _Event(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    seq: Annotated[int, Field(ge=1, le=2**53)]
    at: Moment


class StartedEvent(_Event):
    type: Literal["started"] = "started"
    data: Started


class ProgressEvent(_Event):
    type: Literal["progress"] = "progress"
    data: Progress


class EpochEvent(_Event):
    type: Literal["epoch"] = "epoch"
    data: Epoch


class ArtifactEvent(_Event):
    type: Literal["artifact"] = "artifact"
    data: ArtifactStored


class FinishedEvent(_Event):
    type: Literal["finished"] = "finished"
    data: Finished


class FailedEvent(_Event):
    type: Literal["failed"] = "failed"
    data: Failed


class InterruptedEvent(_Event):
    type: Literal["interrupted"] = "interrupted"
    data: Interrupted


AnyData = Started | Progress | Epoch | ArtifactStored | Finished | Failed | Interrupted
AnyEvent = Annotated[
    StartedEvent | ProgressEvent | EpochEvent | ArtifactEvent | FinishedEvent | FailedEvent | InterruptedEvent,
    Field(discriminator="type"),
]
EVENT_TYPE: dict[type[AnyData], str] = {
    Started: "started",
    Progress: "progress",
    Epoch: "epoch",
    ArtifactStored: "artifact",
    Finished: "finished",
    Failed: "failed",
    Interrupted: "interrupted",
}


class Batch(BaseModel):
    """The body of a callback request."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    attempt: Annotated[int, Field(ge=1)]
    events: Annotated[list[AnyEvent], Field(max_length=MAX_EVENTS)]


class Answer(BaseModel):
    """The body of the platform's answer."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    acked: int = 0
    command: Command = Command.CONTINUE
