"""The states of a job, the moves between them, and why a job ended."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from trainer.contract.exits import REASON, ExitCode, FailureReason


class State(models.TextChoices):
    QUEUED = "queued", _("Queued")
    LAUNCHING = "launching", _("Launching")
    RUNNING = "running", _("Running")
    CANCELLING = "cancelling", _("Cancelling")
    LOST = "lost", _("Lost")
    SUCCEEDED = "succeeded", _("Succeeded")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")


ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
# A trainer of the job may be at work.
ACTIVE = frozenset({State.LAUNCHING, State.RUNNING, State.CANCELLING, State.LOST})

MOVES: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.LAUNCHING, State.CANCELLED, State.FAILED}),
    State.LAUNCHING: frozenset(
        {
            State.RUNNING,
            State.SUCCEEDED,
            State.FAILED,
            State.CANCELLED,
            State.CANCELLING,
            State.LOST,
            State.QUEUED,
        }
    ),
    State.RUNNING: frozenset(
        {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.CANCELLING, State.LOST, State.QUEUED}
    ),
    State.CANCELLING: frozenset({State.CANCELLED, State.SUCCEEDED, State.FAILED}),
    State.LOST: frozenset(
        {State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED, State.CANCELLING, State.QUEUED}
    ),
    State.SUCCEEDED: frozenset(),
    # An ended job that did not succeed may be tried again, as a new attempt, when a person asks for it.
    State.FAILED: frozenset({State.QUEUED}),
    State.CANCELLED: frozenset({State.QUEUED}),
}


class EndReason(models.TextChoices):
    """Why a job ended. `STATE_OF` says, for every member, which state that means."""

    FINISHED = "finished", _("Finished")
    CANCELLED = "cancelled", _("Cancelled by a person")
    BAD_CONFIGURATION = "bad_configuration", _("Bad configuration")
    BAD_DATA = "bad_data", _("Bad data")
    WEIGHTS_MISSING = "weights_missing", _("Weights missing")
    STORE_UNREACHABLE = "store_unreachable", _("Store unreachable")
    STORE_DENIED = "store_denied", _("Store denied access")
    DISK_FULL = "disk_full", _("Disk full")
    GPU_OUT_OF_MEMORY = "gpu_out_of_memory", _("GPU out of memory")
    DIVERGED = "diverged", _("Training diverged")
    CRASHED = "crashed", _("Trainer crashed")
    LAUNCH_FAILED = "launch_failed", _("Could not be launched")
    INTERRUPTED = "interrupted", _("Interrupted from outside")
    KILLED = "killed", _("Killed by a signal")
    HOST_OUT_OF_MEMORY = "host_out_of_memory", _("Host out of memory")
    VANISHED = "vanished", _("Vanished without a trace")


STATE_OF: dict[EndReason, State] = {
    EndReason.FINISHED: State.SUCCEEDED,
    EndReason.CANCELLED: State.CANCELLED,
} | {reason: State.FAILED for reason in EndReason if reason not in (EndReason.FINISHED, EndReason.CANCELLED)}

OF_FAILURE: dict[FailureReason, EndReason] = {reason: EndReason(reason.value) for reason in FailureReason}


def reason_from_exit(exit_code: int | None, signal: int | None, *, out_of_memory: bool) -> EndReason:
    """What an exit without a last message means; the documented exit codes speak for themselves."""
    if out_of_memory:
        return EndReason.HOST_OUT_OF_MEMORY
    if signal is not None:
        return EndReason.KILLED
    if exit_code is None:
        return EndReason.VANISHED
    if exit_code == ExitCode.SUCCEEDED:
        return EndReason.FINISHED
    if exit_code in (ExitCode.INTERRUPTED, ExitCode.SUPERSEDED):
        return EndReason.INTERRUPTED
    if exit_code in REASON:
        return OF_FAILURE[REASON[ExitCode(exit_code)]]
    return EndReason.CRASHED
