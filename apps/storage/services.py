"""The verbs on datasets."""

import tempfile
from pathlib import Path

from django.contrib.auth.models import AbstractUser
from django.db import IntegrityError, transaction

from apps.projects.models import Project
from apps.storage.errors import NotADatasetError
from apps.storage.models import Dataset, DatasetVersion
from apps.storage.stores import get_store
from trainer.contract.tasks import TaskType
from trainer.store import StoreError


def import_folder(
    folder: Path, *, project: Project, name: str, task_type: str, by: AbstractUser | None
) -> DatasetVersion:
    """Freeze the dataset in `folder` as the next version of `name` in `project`.

    The same content again is the same version: the newest is returned when its SHA-256 is equal.

    Raises:
        NotADatasetError: the folder holds errors, or the name belongs to a dataset for another task.
        StoreError: the store did not take the archive; nothing was recorded.
    """
    report = validate(folder, TaskType(task_type))
    if not report.ok:
        worst = [f"{f.path or folder}: {f.message}" for f in report.findings if f.severity == "error"][:20]
        raise NotADatasetError(f"{folder} cannot be trained on:\n" + "\n".join(worst))
    dataset, made = Dataset.objects.get_or_create(project=project, name=name, defaults={"task_type": task_type})
    if dataset.task_type != task_type:
        raise NotADatasetError(f"{name} is a dataset for {dataset.task_type}; give data for {task_type} another name.")
    with tempfile.TemporaryDirectory(prefix="trainyard-") as scratch:
        archive = Path(scratch) / "data.tar"
        packed = pack(folder, archive)
        latest = dataset.latest
        if latest is not None and latest.sha256 == packed.sha256:
            return latest
        # Archive first, row second: a row never points at nothing. The key is the content's own, so two imports at
        # once cannot overwrite each other.
        try:
            get_store().put_file(archive_key(str(dataset.pk), packed.sha256), archive)
        except StoreError:
            if made:
                Dataset.objects.filter(pk=dataset.pk, versions=None).delete()
            raise
    version = DatasetVersion(
        dataset=dataset,
        sha256=packed.sha256,
        size=packed.size,
        class_names=report.class_names,
        images=report.images,
        instances=report.instances,
        created_by_id=by.pk if by else None,
    )
    return _number_and_save(version)


def _number_and_save(version: DatasetVersion) -> DatasetVersion:
    """Take the next free number; where another import takes it at the same moment, the one after."""
    while True:
        latest = version.dataset.latest
        version.number = latest.number + 1 if latest else 1
        try:
            with transaction.atomic():
                version.save()
        except IntegrityError:
            continue
        return version
