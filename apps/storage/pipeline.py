"""From a folder in any known format to a version of a dataset: convert, check, pack, record.

Every step may be repeated. What an interrupted import had stored is found again by its content, the rows of a version
that never became complete are dropped, and a version is seen from one moment to the next, with all that belongs to it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from django.db import transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from apps.storage.errors import WrongStateError
from apps.storage.formats import Converted, convert
from apps.storage.index import DatabaseIndex, in_chunks
from apps.storage.models import (
    Dataset,
    DatasetFinding,
    DatasetImage,
    DatasetImport,
    DatasetVersion,
    FindingCount,
    ImageClass,
    ImportState,
    Phase,
    Shard,
    StoredFile,
)
from apps.storage.progress import ImportLostError, Tell, mine
from apps.storage.records import FindingRow, ImageRow, Records
from apps.storage.stores import get_store
from apps.storage.versions import drop_rows
from trainer.contract.tasks import TaskType
from trainer.dataset.errors import DatasetError
from trainer.dataset.findings import DatasetReport
from trainer.dataset.manifest import Header
from trainer.dataset.packing import pack
from trainer.dataset.validation import validate

logger = logging.getLogger(__name__)

# Images whose rows are made in one transaction: SQLite has one writer, and trainers' messages wait for it meanwhile.
ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Outcome:
    """The version that holds what was imported; `made` tells whether it is a new one."""

    version: DatasetVersion
    made: bool


def import_contents(imp: DatasetImport, folder: Path, scratch: Path, tell: Tell) -> Outcome:
    """Freeze what lies in `folder` as a version of the import's dataset, and end the import as succeeded.

    `scratch` is a folder of this import alone. Data with errors becomes a version too, to be looked at.

    Raises:
        NotADatasetError, DatasetError: it cannot be understood at all; the message is for people.
        ImportLostError: it was cancelled.
        StoreError, OSError.
    """
    converted = _convert(imp, folder, scratch / "dataset", tell)
    with Records(scratch / "records.sqlite3") as records:
        report = _check(imp, converted, scratch / "dataset", records, tell)
        header = pack(
            scratch / "dataset",
            converted.description,
            ok=report.ok,
            store=get_store(),
            dataset_id=str(imp.dataset_id),
            index=DatabaseIndex(imp),
            progress=_of(Phase.STORING, tell),
        )
        newest = newest_of(imp.dataset)
        if newest is not None and newest.sha256 == header.sha256:
            return _settle(imp, None, newest.sha256, report)
        version = _new_version(imp, header, converted, report)
        try:
            _record(version, header, records, tell)
            _count_findings(version, report)
            return _settle(imp, version, header.sha256, report)
        finally:
            # Whatever kept it from becoming complete, or a twin of it that was quicker.
            drop_rows(DatasetVersion.everything.filter(pk=version.pk, complete=False))


def newest_of(dataset: Dataset) -> DatasetVersion | None:
    """The newest version, trainable or not."""
    return dataset.versions.order_by("-number").first()


def _convert(imp: DatasetImport, folder: Path, target: Path, tell: Tell) -> Converted:
    tell(Phase.CONVERTING, 0, 0)
    converted = convert(
        folder,
        target,
        task_type=TaskType(imp.dataset.task_type),
        format=imp.options.get("format"),
        val_share=imp.options["val_share"],
        progress=_of(Phase.CONVERTING, tell),
    )
    mine(imp).update(format=converted.format)
    return converted


def _check(imp: DatasetImport, converted: Converted, folder: Path, records: Records, tell: Tell) -> DatasetReport:
    """The report, with what the conversion noted among the findings."""
    report = validate(
        folder,
        TaskType(imp.dataset.task_type),
        on_image=records.add_image,
        on_finding=records.add_finding,
        progress=_of(Phase.CHECKING, tell),
    )
    for note in converted.notes:
        report.add(note)
        records.add_finding(note)
    return report


def _of(phase: Phase, tell: Tell) -> Callable[[int, int], None]:
    return lambda done, total: tell(phase, done, total)


# --- rows -----------------------------------------------------------------------------------------------------------


def _new_version(imp: DatasetImport, header: Header, converted: Converted, report: DatasetReport) -> DatasetVersion:
    """A version that nobody sees yet: it has no number."""
    version = DatasetVersion(
        dataset=imp.dataset,
        number=0,
        complete=False,
        sha256=header.sha256,
        size=header.size,
        files=header.files,
        class_names=list(converted.description.class_names),
        keypoints=converted.description.to_json()["keypoints"],
        images=report.images,
        instances=report.instances,
        statistics=dict(report.statistics),
        errors=report.total("error"),
        warnings=report.total("warning"),
        created_by_id=imp.created_by_id,
    )
    version.save(force_insert=True)
    return version


def _record(version: DatasetVersion, header: Header, records: Records, tell: Tell) -> None:
    """Make the rows of images, classes and findings, and hold on to every shard that they or the manifest name."""
    shards = {shard.key for shard in header.shards}
    used = set(Shard.objects.filter(dataset=version.dataset_id, key__in=shards).values_list("pk", flat=True))
    images, done = records.in_order(), 0
    tell(Phase.RECORDING, 0, records.images)
    while some := list(islice(images, ROWS_AT_ONCE)):
        used |= _record_images(version, some, records)
        done += len(some)
        tell(Phase.RECORDING, done, records.images)
    findings = records.findings()
    while found := list(islice(findings, ROWS_AT_ONCE)):
        DatasetFinding.objects.bulk_create(_finding(version, row) for row in found)
        tell(Phase.RECORDING, done, records.images)
    version.shards.set(used)


def _record_images(version: DatasetVersion, some: list[ImageRow], records: Records) -> set[int]:
    """Make the rows of these images; return the shards that their files lie in."""
    digests = {row.sha256 for row in some} | {row.label_sha256 for row in some if row.label_sha256}
    stored: dict[str, tuple[int, int]] = {}
    for part in in_chunks(sorted(digests)):
        found = StoredFile.objects.filter(dataset=version.dataset_id, sha256__in=part)
        stored |= {sha256: (pk, shard) for sha256, pk, shard in found.values_list("sha256", "pk", "shard")}
    for row in some:
        if row.sha256 not in stored or (row.label_sha256 and row.label_sha256 not in stored):
            raise DatasetError(f"{row.path} or its label changed while it was imported. Import a copy that is at rest.")
    images = [_image(version, row, stored) for row in some]
    with transaction.atomic():
        images = DatasetImage.objects.bulk_create(images)
        ImageClass.objects.bulk_create(
            ImageClass(image=image, version=version, class_id=class_id)
            for image, row in zip(images, some, strict=True)
            for class_id in row.class_ids
        )
    for image, row in zip(images, some, strict=True):
        records.remember(row, image.pk)
    return {shard for _pk, shard in stored.values()}


def _image(version: DatasetVersion, row: ImageRow, stored: dict[str, tuple[int, int]]) -> DatasetImage:
    return DatasetImage(
        version=version,
        path=row.path,
        split=row.split,
        file_id=stored[row.sha256][0],
        label_id=stored[row.label_sha256][0] if row.label_sha256 else None,
        width=row.width,
        height=row.height,
        instances=row.instances,
    )


def _finding(version: DatasetVersion, row: FindingRow) -> DatasetFinding:
    return DatasetFinding(version=version, **row._asdict())


def _count_findings(version: DatasetVersion, report: DatasetReport) -> None:
    FindingCount.objects.bulk_create(
        FindingCount(version=version, severity=severity, code=code, number=number)
        for (severity, code), number in report.counts.items()
    )


def _settle(imp: DatasetImport, version: DatasetVersion | None, sha256: str, report: DatasetReport) -> Outcome:
    """Show the version, with the next number, and end the import: in one transaction, and once.

    The newest version is shown in its place where it holds the same, also if it came meanwhile.
    """
    with transaction.atomic():
        dataset = Dataset.objects.select_for_update().get(pk=imp.dataset_id)
        newest = newest_of(dataset)
        if newest is not None and newest.sha256 == sha256:
            outcome = Outcome(newest, made=False)
            message = _("Nothing changed: %(it)s holds the same.") % {"it": newest}
        else:
            outcome = Outcome(_show(dataset, newest, version), made=True)
            message = _summary(outcome.version, report)
        ended = {
            "state": ImportState.SUCCEEDED,
            "ended_at": timezone.now(),
            "seen_at": timezone.now(),
            "done": F("total"),
        }
        if not mine(imp).update(version=outcome.version, message=message, **ended):
            raise ImportLostError(imp)
    return outcome


def _show(dataset: Dataset, newest: DatasetVersion | None, version: DatasetVersion | None) -> DatasetVersion:
    if version is None:
        # It was found equal to a version that has been deleted since then.
        raise WrongStateError(_("The version that held the same was deleted meanwhile. Import the data again."))
    version.number = max(dataset.last_number, newest.number if newest else 0) + 1
    version.complete = True
    DatasetVersion.everything.filter(pk=version.pk).update(number=version.number, complete=True)
    Dataset.objects.filter(pk=dataset.pk).update(last_number=version.number)
    return version


def _summary(version: DatasetVersion, report: DatasetReport) -> str:
    images = sum(report.images.values())
    said = ngettext("%(it)s has %(n)s image.", "%(it)s has %(n)s images.", images) % {"it": version, "n": images}
    if version.errors:
        wrong = ngettext(
            "It cannot be trained on: %(n)s error.", "It cannot be trained on: %(n)s errors.", version.errors
        )
        said += " " + wrong % {"n": version.errors}
    if version.warnings:
        doubtful = ngettext("%(n)s warning.", "%(n)s warnings.", version.warnings)
        said += " " + doubtful % {"n": version.warnings}
    return said
