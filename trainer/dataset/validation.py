"""What is wrong with a dataset, found before anything trains on it.

Errors are what the trainer would fail on, or would pass over in silence: ultralytics drops a picture with all its
labels for one bad row or one missing byte. Warnings are what is allowed and probably not meant. The layout is
described in `trainer.dataset.layout`.
"""

import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from PIL import Image

from trainer.contract.tasks import TaskType
from trainer.dataset.balance import check_classes, check_objects, check_splits
from trainer.dataset.checking import Checked, check
from trainer.dataset.class_folders import check_class_folders, class_ids, class_names_of, class_of
from trainer.dataset.duplicates import SeenPictures
from trainer.dataset.findings import DatasetReport, Finding
from trainer.dataset.layout import (
    DATA_YAML,
    REQUIRED_SPLITS,
    Description,
    ImageRecord,
    has_labels,
    images_of,
    read_description,
)
from trainer.dataset.parallel import cores, in_order
from trainer.dataset.statistics import StatisticsBuilder
from trainer.dataset.walking import Walk

# Goes up whenever the same dataset may get other findings; versions remember by which check they passed.
CHECK_VERSION = 1

OnImage = Callable[[ImageRecord], None]
OnFinding = Callable[[Finding], None]
Progress = Callable[[int, int], None]


def validate(
    folder: Path,
    task_type: str | None = None,
    *,
    on_image: OnImage | None = None,
    on_finding: OnFinding | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
) -> DatasetReport:
    """Read the whole dataset in `folder` and report on it.

    `task_type` is what it is wanted for; None leaves that to `data.yaml`. `on_image` is told of every picture, in the
    order of full paths, and `on_finding` of every finding: those of a picture and its label come right after it,
    but for that of a later copy in another split.
    `progress` is told the pictures done and in all. All three are called in the calling thread, and what they raise
    ends the check. `workers` threads read, by default one for each core.
    """
    with warnings.catch_warnings():
        # Pillow warns of large and damaged pictures, which is what findings are for.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return _Validation(folder, on_image, on_finding).run(task_type, progress, workers or cores())


class _Validation:
    """One pass over one dataset."""

    def __init__(self, folder: Path, on_image: OnImage | None, on_finding: OnFinding | None) -> None:
        self._folder = folder
        self._on_image = on_image
        self._on_finding = on_finding
        self._report = DatasetReport()
        self._looks_like: TaskType | None = None
        self._class_ids: Mapping[str, int] = {}

    def run(self, task_type: str | None, progress: Progress | None, workers: int) -> DatasetReport:
        description = self._describe(task_type)
        if description is None:
            return self._report
        walk = Walk(self._folder, self._add, labelled=has_labels(description.task_type))
        walk.check_places()
        statistics = StatisticsBuilder(dict.fromkeys([*REQUIRED_SPLITS, *walk.splits()]))
        total = sum(1 for split in walk.splits() for _ in images_of(self._folder, split)) if progress else 0
        results = in_order(lambda candidate: check(self._folder, candidate, description), walk, workers)
        with SeenPictures() as seen, closing(results):  # closed, its threads end before an exception goes on
            for done, checked in enumerate(results, start=1):
                self._take(checked, statistics, seen)
                if progress:
                    progress(done, total)
        self._finish(statistics, description)
        return self._report

    def _describe(self, task_type: str | None) -> Description | None:
        """What the dataset is; None where nobody says so. A broken data.yaml does not keep the rest unchecked."""
        wanted = TaskType(task_type) if task_type is not None else None
        stated, findings = read_description(self._folder, wanted)
        if wanted is TaskType.IMAGE_CLASSIFICATION and [finding.code for finding in findings] == ["yaml_missing"]:
            findings = []  # the folders say it all
        task = stated.task_type if stated else wanted
        if task is None and not any(finding.code == "task_unknown" for finding in findings):
            message = "Nothing says what the dataset is for. Choose a task, or write 'task_type:' into this file."
            findings.append(Finding("error", "task_unknown", message, DATA_YAML))
        if task is not None and wanted is not None and task != wanted:
            message = f"It holds data for {task}, not for {wanted}. Choose that task, or other data."
            findings.append(Finding("error", "wrong_task", message, DATA_YAML))
        if task is TaskType.IMAGE_CLASSIFICATION:
            findings += check_class_folders(self._folder, stated.class_names if stated else None)
            stated = Description(task, class_names_of(self._folder))
            self._class_ids = class_ids(stated.class_names)
        for finding in findings:
            self._add(finding)
        self._report.class_names = list(stated.class_names) if stated else []
        return stated or (Description(task, ()) if task else None)

    def _take(self, checked: Checked, statistics: StatisticsBuilder, seen: SeenPictures) -> None:
        """Add one picture to the sums, and tell of it and of its findings."""
        candidate = checked.candidate
        self._looks_like = self._looks_like or checked.looks_like
        first = seen.first_with(checked.sha256, candidate.path) if checked.sha256 and checked.width else None
        if first:
            checked.findings.append(self._repeated(candidate.path, first))
        statistics.add_image(candidate.split, checked.width, checked.height)
        class_id = self._class_ids.get(class_of(candidate.path) or "")
        if class_id is not None:
            statistics.add_class(candidate.split, class_id)
        elif checked.labelled:
            statistics.add_objects(candidate.split, checked.tally)
        if self._on_image:
            self._on_image(_record(checked, class_id))
        for finding in checked.findings:
            self._add(finding)
        if first and _split(first) != candidate.split:  # either may be the one to remove: both are marked
            self._add(self._repeated(first, candidate.path))

    def _repeated(self, path: str, first: str) -> Finding:
        if _split(path) != _split(first):
            message = f"The same picture as {first}: metrics look better than they are. Keep it in one split alone."
            return Finding("warning", "image_in_two_splits", message, path)
        if self._class_ids and class_of(path) != class_of(first):
            message = f"The same picture as {first}, which is of another class. Keep the right one."
            return Finding("warning", "image_in_two_classes", message, path)
        message = f"The same picture as {first}. Remove one, unless it should count twice."
        return Finding("warning", "image_repeated", message, path)

    def _finish(self, statistics: StatisticsBuilder, description: Description) -> None:
        report = self._report
        report.images, report.instances = statistics.images, statistics.instances
        report.statistics = statistics.result()
        findings = check_splits(statistics.images)
        counts, names = statistics.instances_by_class, description.class_names
        if not has_labels(description.task_type):
            findings += check_classes(counts, names)
        elif self._looks_like and not sum(statistics.instances.values()):
            message = (
                f"No row is a label for {description.task_type}; they look like {self._looks_like}. Choose that task."
            )
            findings.append(Finding("error", "wrong_task", message))
        elif statistics.images["train"]:
            findings += check_objects(counts, names)
        for finding in findings:
            self._add(finding)

    def _add(self, finding: Finding) -> None:
        self._report.add(finding)
        if self._on_finding:
            self._on_finding(finding)


def _split(path: str) -> str:
    return path.split("/")[1]


def _record(checked: Checked, class_id: int | None) -> ImageRecord:
    candidate = checked.candidate
    ids = tuple(sorted(checked.tally.classes)) if class_id is None else (class_id,)
    return ImageRecord(
        path=candidate.path,
        split=candidate.split,
        width=checked.width,
        height=checked.height,
        size=checked.size,
        sha256=checked.sha256,
        label_path=candidate.label,
        label_sha256=checked.label_sha256,
        instances=checked.tally.instances if class_id is None else 1,
        class_ids=ids,
        codes=tuple(dict.fromkeys(finding.code for finding in checked.findings)),
    )
