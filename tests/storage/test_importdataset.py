"""`manage.py importdataset`, as somebody at a shell uses it."""

from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from apps.projects.models import Project
from apps.storage.models import Dataset
from apps.storage.sample import draw_sample
from trainer.store import ObjectStore


def test_a_folder_becomes_a_version_in_a_project_that_is_made_for_it(
    db: None, store: ObjectStore, tmp_path: Path
) -> None:
    draw_sample(tmp_path / "shapes", train=4, val=2, size=64)
    said = StringIO()
    call_command("importdataset", str(tmp_path / "shapes"), "--project", "Mine", stdout=said)
    assert "shapes v1 in project Mine" in said.getvalue()
    dataset = Dataset.objects.get(project__name="Mine")
    assert dataset.latest is not None
    assert dataset.latest.images == {"train": 4, "val": 2}
    assert len(list(store.list("datasets"))) == 1


def test_a_folder_with_errors_names_them_and_leaves_nothing_behind(
    db: None, store: ObjectStore, tmp_path: Path
) -> None:
    draw_sample(tmp_path / "shapes", train=4, val=2, size=64)
    label = next((tmp_path / "shapes" / "labels" / "train").iterdir())
    label.write_text("99 0.5 0.5 0.1 0.1\n")
    with pytest.raises(CommandError, match=label.name):
        call_command("importdataset", str(tmp_path / "shapes"), "--project", "Mine")
    assert not Project.objects.exists()
    assert not Dataset.objects.exists()
    assert list(store.list()) == []


def test_what_is_no_folder_is_refused(db: None, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="is no folder"):
        call_command("importdataset", str(tmp_path / "nowhere"), "--project", "Mine")
