"""What an executor raises.

ExecutorError
├── LaunchError             the trainer was not started; `retryable` says whether trying again can help
├── StillAliveError         refused, because the attempt has not ended
└── UnknownReferenceError   no attempt of this executor answers to the reference
"""


class ExecutorError(Exception):
    """Anything an executor can fail with."""


class LaunchError(ExecutorError):
    """The trainer was not started, and will not start later on its own."""

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


class StillAliveError(ExecutorError):
    """What was asked needs an attempt that is known to have ended."""


class UnknownReferenceError(ExecutorError):
    """The reference names no attempt that this executor knows."""

    def __init__(self, reference: str) -> None:
        super().__init__(f"No attempt is known as {reference!r}.")
        self.reference = reference
