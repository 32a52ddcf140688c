"""The platform's side of MLflow: links to runs, and closing those whose trainer could not."""

from django.conf import settings

from apps.jobs.models import Attempt
from apps.jobs.states import State
from trainer.recorder import close_run


def close_run_of(attempt_id: int) -> None:
    """Close the MLflow run of a dead attempt as its job ended; a run that is closed already stays as it is."""
    attempt = Attempt.objects.select_related("job").get(pk=attempt_id)
    if not attempt.mlflow_run_id or settings.MLFLOW_TRACKING_URI == "off":
        return
    status = {State.SUCCEEDED: "FINISHED", State.FAILED: "FAILED"}.get(State(attempt.job.state), "KILLED")
    close_run(settings.MLFLOW_TRACKING_URI, attempt.mlflow_run_id, status)


def run_url(attempt: Attempt) -> str | None:
    """Where a browser opens the attempt's run, or None where there is none."""
    if not attempt.mlflow_run_id or not attempt.mlflow_experiment_id:
        return None
    return f"{settings.MLFLOW_UI_URL}/#/experiments/{attempt.mlflow_experiment_id}/runs/{attempt.mlflow_run_id}"
