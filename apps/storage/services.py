"""Importing from a folder, an archive or an address, here and now. A worker imports uploads: `imports`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.contrib.auth.models import AbstractUser
from django.utils import timezone
from django.utils.translation import gettext as _

from apps.projects.models import Project
from apps.storage.errors import InvalidUploadError, NotADatasetError, WrongStateError
from apps.storage.imports import claim, import_archive, tidy_up, working
from apps.storage.models import GOING, Dataset, DatasetImport, DatasetVersion
from apps.storage.options import checked_options
from apps.storage.pipeline import Outcome, import_contents
from apps.storage.progress import Tell
from apps.storage.sources import fetched, shown

_ERRORS_NAMED = 20


def import_folder(
    folder: Path, *, project: Project, name: str, task_type: str, by: AbstractUser | None
) -> DatasetVersion:
    """Freeze the dataset in `folder`, of any known format, as the next version of `name` in `project`.

    The same content again is the same version: the newest is returned when its SHA-256 is equal.

    Raises:
        NotADatasetError: with the first errors, if it has any. Where the folder could be understood, they are found
            in the version that was made of it, which can be looked at and not be trained on.
        DatasetError, StoreError, OSError: nothing was recorded.
    """
    version = import_source(str(folder), project=project, name=name, task_type=task_type, by=by).version
    if not version.trainable:
        found = version.findings.filter(severity="error").order_by("id")[:_ERRORS_NAMED]
        errors = "\n".join(f"{error.path or folder}: {error.message}" for error in found)
        raise NotADatasetError(_("%(folder)s cannot be trained on:") % {"folder": folder} + f"\n{errors}")
    return version


def import_source(
    source: str,
    *,
    project: Project,
    name: str,
    task_type: str,
    by: AbstractUser | None,
    options: dict[str, Any] | None = None,
    tell: Tell | None = None,
) -> Outcome:
    """Import a folder, an archive, or what lies at an address of the web or of the object store, now and here.

    `options` as for an upload. The version may have errors. Interrupted, it is begun anew by the same call, and what
    was downloaded or stored by then is not downloaded or stored again.

    Raises:
        SourceError: it cannot be had.
        NotADatasetError, ArchiveError, DatasetError: it could not be understood.
        InvalidUploadError: an option is wrong.
        WrongStateError: somebody cancelled it.
        StoreError, OSError.
    """
    chosen, problems = checked_options(options or {})
    if problems:
        raise InvalidUploadError(problems)
    with _dataset(project, name, task_type) as dataset:
        imp = _begin(
            DatasetImport(dataset=dataset, created_by_id=by.pk if by else None, source=shown(source), options=chosen)
        )
        try:
            with working(imp, tell) as (scratch, beat), fetched(source, scratch, beat) as path:
                import_from = import_contents if path.is_dir() else import_archive
                return import_from(imp, path, scratch, beat)
        finally:
            imp.refresh_from_db()
            tidy_up(imp)


def _begin(imp: DatasetImport) -> DatasetImport:
    imp.seen_at = timezone.now()
    imp.save(force_insert=True)
    claimed = claim(imp.pk)
    if claimed is None:
        raise WrongStateError(_("The import of %(name)s was cancelled before it began.") % {"name": imp})
    return claimed


@contextmanager
def _dataset(project: Project, name: str, task_type: str) -> Iterator[Dataset]:
    """The dataset of that name; one that is made for an import of which nothing came goes again."""
    dataset, made = Dataset.objects.get_or_create(project=project, name=name, defaults={"task_type": task_type})
    if dataset.task_type != task_type:
        said = _("%(name)s is a dataset for %(its)s; give data for %(task)s another name.")
        raise NotADatasetError(said % {"name": name, "its": dataset.task_type, "task": task_type})
    try:
        yield dataset
    finally:
        if made:
            # Not where shards were stored: the import that is begun anew finds them by their rows. Nor where somebody
            # else has begun to import into it.
            unused = Dataset.objects.filter(pk=dataset.pk, versions=None, shards=None)
            unused.exclude(imports__state__in=GOING).delete()
