"""Names that only the database knows."""

from apps.jobs.models import Attempt, Job


def attempt_name(job: Job, number: int = 1) -> str:
    """The name under which the executor knows an attempt of `job`."""
    return Attempt.objects.get(job=job, number=number).name
