"""What can go wrong with a job on the platform's side. Messages are meant for people."""


class JobError(Exception):
    """Base of this app's errors."""


class InvalidJobError(JobError):
    """A job cannot be made as asked. `problems` maps each field to what is wrong with it."""

    def __init__(self, problems: dict[str, list[str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{field}: {text}" for field, texts in problems.items() for text in texts))


class NotAllowedError(JobError):
    """The person has no right to do this to that."""


class IllegalMoveError(JobError):
    """The job is in a state from which it cannot go there."""


class SupersededError(JobError):
    """A message came from an attempt that a newer one has replaced."""
