"""What went wrong, as a class that a person can act on."""

import errno
from contextlib import suppress

from trainer.contract.exits import FailureReason
from trainer.dataset.errors import CacheError, CacheFullError, DatasetError
from trainer.store import BucketMissingError, ObjectMissingError, StoreDeniedError, StoreError, StoreFullError


class TrainerError(Exception):
    """An end that the trainer understands; the message is for the person who runs the job."""

    reason = FailureReason.CRASHED


class WeightsMissingError(TrainerError):
    """Weights were required and could not be had."""

    reason = FailureReason.WEIGHTS_MISSING


class DivergedError(TrainerError):
    """The loss is no longer a number."""

    reason = FailureReason.DIVERGED


def classify(error: BaseException) -> FailureReason:
    """The class of `error`, from its type and from what it was raised for."""
    for each in _chain(error):
        with suppress(StopIteration):
            return next(reason for kind, reason in _BY_TYPE if isinstance(each, kind))
        if isinstance(each, TrainerError):
            return each.reason
        if isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT):
            return FailureReason.DISK_FULL
        # torch is not imported here: its error is known by name.
        if type(each).__name__ == "OutOfMemoryError" or "CUDA out of memory" in str(each):
            return FailureReason.GPU_OUT_OF_MEMORY
        if isinstance(each, RuntimeError) and "NaN" in str(each):
            return FailureReason.DIVERGED
    return FailureReason.CRASHED


_BY_TYPE: tuple[tuple[type[BaseException], FailureReason], ...] = (
    (CacheFullError, FailureReason.DISK_FULL),
    (CacheError, FailureReason.BAD_CONFIGURATION),
    (DatasetError, FailureReason.BAD_DATA),
    (ObjectMissingError, FailureReason.BAD_DATA),
    (BucketMissingError, FailureReason.STORE_DENIED),
    (StoreDeniedError, FailureReason.STORE_DENIED),
    (StoreFullError, FailureReason.DISK_FULL),
    (StoreError, FailureReason.STORE_UNREACHABLE),
)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what it came from, outermost first."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        # What was hidden by `raise … from None` had been dealt with.
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return found
