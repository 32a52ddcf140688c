"""What becomes of data that an earlier release wrote."""

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor


@pytest.mark.django_db(transaction=True)
def test_a_version_from_before_there_were_manifests_is_kept_and_not_trained_on() -> None:
    newest = MigrationExecutor(connection).loader.graph.leaf_nodes()
    before = MigrationExecutor(connection)
    before.migrate([("storage", "0001_initial"), ("jobs", "0001_initial"), ("projects", "0001_initial")])
    old = before.loader.project_state([("storage", "0001_initial")]).apps
    project = old.get_model("projects", "Project").objects.create(name="Old")
    dataset = old.get_model("storage", "Dataset").objects.create(
        project=project, name="o", task_type="object_detection"
    )
    old.get_model("storage", "DatasetVersion").objects.create(
        dataset=dataset, number=1, sha256="0" * 64, size=10, boxes={"train": 3}
    )
    try:
        MigrationExecutor(connection).migrate(newest)
        from apps.storage.models import Dataset

        version = Dataset.objects.get().versions.get()
        assert version.instances == {"train": 3}
        assert not version.trainable
        assert "Import the data again" in version.findings.get().message
        assert Dataset.objects.get().latest is None
    finally:
        MigrationExecutor(connection).migrate(newest)
