"""Which class of failure an error is: what a person can do about it."""

import errno

import pytest

from trainer.contract.exits import FailureReason
from trainer.dataset.errors import CacheError, CacheFullError, DatasetCorruptError, DatasetError
from trainer.failures import DivergedError, TrainerError, WeightsMissingError, classify
from trainer.store import (
    BucketMissingError,
    ChecksumMismatchError,
    InvalidKeyError,
    ObjectMissingError,
    StoreDeniedError,
    StoreError,
    StoreFullError,
    StoreUnreachableError,
)


class OutOfMemoryError(RuntimeError):
    """Stands for torch's, which is known by its name."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DatasetError("no images"), FailureReason.BAD_DATA),
        (DatasetCorruptError("other bytes"), FailureReason.BAD_DATA),
        (CacheFullError("no room"), FailureReason.DISK_FULL),
        (CacheError("read-only"), FailureReason.BAD_CONFIGURATION),
        (ObjectMissingError("no archive"), FailureReason.BAD_DATA),
        (BucketMissingError("no bucket"), FailureReason.STORE_DENIED),
        (StoreDeniedError("no"), FailureReason.STORE_DENIED),
        (StoreFullError("full"), FailureReason.DISK_FULL),
        (StoreUnreachableError("nobody there"), FailureReason.STORE_UNREACHABLE),
        (StoreError("something"), FailureReason.STORE_UNREACHABLE),
        (ChecksumMismatchError("other bytes"), FailureReason.STORE_UNREACHABLE),
        (InvalidKeyError("../x"), FailureReason.STORE_UNREACHABLE),
        (WeightsMissingError("none"), FailureReason.WEIGHTS_MISSING),
        (DivergedError("NaN"), FailureReason.DIVERGED),
        (TrainerError("?"), FailureReason.CRASHED),
        (OSError(errno.ENOSPC, "No space left on device"), FailureReason.DISK_FULL),
        (OSError(errno.EDQUOT, "Quota exceeded"), FailureReason.DISK_FULL),
        (OSError(errno.EACCES, "Permission denied"), FailureReason.CRASHED),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), FailureReason.GPU_OUT_OF_MEMORY),
        (OutOfMemoryError(""), FailureReason.GPU_OUT_OF_MEMORY),
        (RuntimeError("CUDA error: CUDA out of memory"), FailureReason.GPU_OUT_OF_MEMORY),
        (RuntimeError("Training failed: NaN persisted for 3 epochs"), FailureReason.DIVERGED),
        (ValueError("NaN is not in list"), FailureReason.CRASHED),
        (KeyError("x"), FailureReason.CRASHED),
        (MemoryError(), FailureReason.CRASHED),
        (ConnectionError("refused"), FailureReason.CRASHED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value.value,
)
def test_each_error_has_its_class(error: Exception, reason: FailureReason) -> None:
    assert classify(error) is reason


def caused(outer: Exception, inner: Exception) -> Exception:
    try:
        raise outer from inner
    except BaseException as error:  # noqa: BLE001 - whatever was handed in
        return error


def during(outer: Exception, inner: Exception, *, hidden: bool = False) -> Exception:
    """`outer` raised while `inner` was dealt with; `hidden` as by `raise … from None`."""
    try:
        try:
            raise inner
        except BaseException:  # noqa: BLE001 - whatever was handed in
            if hidden:
                raise outer from None
            raise outer  # noqa: B904 - this is what is tested
    except BaseException as error:  # noqa: BLE001 - whatever was handed in
        return error


def test_an_error_is_known_by_what_it_was_raised_for() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert classify(caused(RuntimeError("could not save"), full)) is FailureReason.DISK_FULL
    assert classify(caused(RuntimeError("a"), caused(ValueError("b"), full))) is FailureReason.DISK_FULL
    assert classify(during(RuntimeError("could not save"), full)) is FailureReason.DISK_FULL


def test_the_outermost_class_counts() -> None:
    """Who translated an error knew what it means."""
    assert classify(caused(StoreDeniedError("no"), OSError(errno.ENOSPC, "full"))) is FailureReason.STORE_DENIED
    assert classify(caused(WeightsMissingError("none"), ObjectMissingError("x"))) is FailureReason.WEIGHTS_MISSING


def test_an_error_that_was_dealt_with_is_not_the_reason() -> None:
    assert classify(during(ValueError("a bug"), StoreDeniedError("no"), hidden=True)) is FailureReason.CRASHED


def test_errors_that_refer_to_each_other_in_a_circle_are_classified_all_the_same() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert classify(one) is FailureReason.CRASHED
