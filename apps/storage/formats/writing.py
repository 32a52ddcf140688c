"""Writing a dataset in the internal layout, picture by picture, whatever format it came in."""

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from apps.storage.errors import NotADatasetError
from apps.storage.formats.shapes import OutsideError, Shape, row_of
from apps.storage.formats.tree import Tree, plain_name
from trainer.contract.tasks import TaskType
from trainer.dataset.findings import Finding
from trainer.dataset.layout import IMAGES, Description, Keypoints, label_path_of, write_description

Progress = Callable[[int, int], None]

# Pictures that others can read, and the training cannot.
_OTHER_PICTURES = (".gif", ".heic", ".heif", ".avif", ".jp2", ".svg", ".dng", ".cr2", ".nef", ".mpo", ".pfm")
_JPEG_BEGINS, _JPEG_ENDS = b"\xff\xd8", b"\xff\xd9"
_LARGEST_JPEG = 256 << 20
_NAMED = 3  # files that a note names, of all it counts
_LONGEST_PATH = 1000  # characters, of a finding
_SUITS = {
    "boxes": TaskType.OBJECT_DETECTION,
    "rotated boxes": TaskType.ORIENTED_DETECTION,
    "polygons": TaskType.INSTANCE_SEGMENTATION,
    "keypoints": TaskType.POSE_ESTIMATION,
}


@dataclass(frozen=True)
class Converted:
    """What came of a conversion. `notes` has one finding for each kind of thing that was done or left out."""

    format: str
    description: Description
    notes: list[Finding]


class Notes:
    """Counts what a conversion has to say, by kind, and names the first files of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._messages: dict[str, str] = {}
        self._paths: dict[str, list[str]] = {}

    def add(self, code: str, message: str, path: str | None = None, number: int = 1) -> None:
        """`message` may have `{n}`, the number of all of this kind."""
        self._counts[code] += number
        self._messages.setdefault(code, message)
        paths = self._paths.setdefault(code, [])
        if path is not None and len(paths) < _NAMED and (shown := readable(path)[:_LONGEST_PATH]) not in paths:
            paths.append(shown)  # it may be whatever an annotation calls a picture

    def absorb(self, other: "Notes") -> None:
        for code, number in other._counts.items():
            self.add(code, other._messages[code], number=number)
            self._paths[code] += other._paths[code]

    def findings(self) -> list[Finding]:
        found = []
        for code, number in self._counts.items():
            paths = self._paths[code]
            message = self._messages[code].replace("{n}", f"{number:,}")
            if paths:
                message += f" First: {', '.join(paths)}."
            found.append(Finding("warning", code, message, paths[0] if len(paths) == 1 else None))
        return found


class Writer:
    """Puts pictures and labels where the layout has them. Pictures are linked where they can be, and copied else.

    `splits` are those that the source tells. Without one for validation, a share of the pictures becomes it: which,
    the SHA-256 of their bytes decides, so that the same picture is always on the same side.
    """

    def __init__(
        self, tree: Tree, target: Path, task: TaskType, *, splits: Iterable[str], val_share: float, progress: Progress
    ) -> None:
        self.tree, self.task, self.notes = tree, task, Notes()
        self._target, self._val_share, self._progress = target, val_share, progress
        named = set(splits)
        self._makes_split = "val" not in named and (not named or "train" in named)
        self._done, self._total = 0, len(tree.images)
        self._taken: set[tuple[str, str]] = set()
        self._folders: set[Path] = set()
        self._kinds: Counter[str] = Counter()
        self._suited = self._upright = 0
        # By group (the class of a picture, for classification): pictures of each side, and the next to change sides.
        self._sides: dict[str, Counter[str]] = {}
        self._nearest: dict[tuple[str, str], tuple[str, str]] = {}
        if tree.links:
            what = "{n} links were left out: only files of the dataset itself are read."
            self.notes.add("link_left_out", what, number=tree.links)
        for name in tree.of_suffix(*_OTHER_PICTURES):
            what = "{n} pictures were left out, as their kind cannot be trained on: save them as JPEG or PNG."
            self.notes.add("image_kind_left_out", what, name)

    # --- pictures ---

    def picture(self, source: str, split: str | None, label: str | bytes | None, name: str | None = None) -> None:
        """Take a picture with the text of its label, or with none. `name` is its path within the split."""
        path = self._place(source, split, name or plain_name(source), "")
        if label is not None:
            to = self._target / label_path_of(path)
            self._make_folder(to.parent)
            to.write_bytes(label.encode() if isinstance(label, str) else label)

    def classified(self, source: str, split: str | None, class_name: str, name: str | None = None) -> None:
        self._place(source, split, f"{class_name}/{name or PurePosixPath(source).name}", class_name)

    def _place(self, source: str, split: str | None, name: str, group: str) -> str:
        digest = self._digest(source) if self._makes_split and split in {None, "train"} else ""
        side = self._side(digest) if digest else split or "train"
        name = self._free_name(side, name)
        path = f"{IMAGES}/{side}/{name}"
        to = self._target / path
        self._make_folder(to.parent)
        end = jpeg_end(self.tree.path(source))
        if end is None:
            _link_or_copy(self.tree.path(source), to)
        else:
            _copy_head(self.tree.path(source), to, end)
            what = (
                "{n} JPEGs had bytes after their end, which were cut off: the training would save them anew, with loss."
            )
            self.notes.add("image_tail_cut", what, path)
        if digest:
            self._remember(group, side, digest, path)
        self._done += 1
        self._progress(min(self._done, self._total), self._total)
        return path

    def _make_folder(self, folder: Path) -> None:
        if folder not in self._folders:
            folder.mkdir(parents=True, exist_ok=True)
            self._folders.add(folder)

    def _digest(self, source: str) -> str:
        with self.tree.path(source).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _side(self, digest: str) -> str:
        return "val" if int(digest[:8], 16) < self._val_share * (1 << 32) else "train"

    def _remember(self, group: str, side: str, digest: str, path: str) -> None:
        self._sides.setdefault(group, Counter())[side] += 1
        key = group, side
        candidate = (digest, path)
        # Of those in training the one that the lot nearly drew, of those in validation the one it drew last.
        better = min if side == "train" else max
        self._nearest[key] = better(self._nearest.get(key, candidate), candidate)

    def _free_name(self, split: str, name: str) -> str:
        """`name`, changed where a picture of the same name but for its suffix is there: they would share a label."""
        stem, suffix = os.path.splitext(name)
        tried, number = stem, 1
        while (split, tried) in self._taken:
            number += 1
            tried = f"{stem}-{number}"
        self._taken.add((split, tried))
        if number > 1:
            self.notes.add("image_renamed", "{n} pictures were renamed, as others have the same name.", name)
        return tried + suffix

    # --- labels ---

    def label_of(
        self, source: str, size: tuple[float, float], shapes: Iterable[Shape], ids: dict[str, int], keypoints: int = 0
    ) -> str:
        """The label text of a picture, from shapes in pixels of a picture of this `size`."""
        rows = []
        for shape in shapes:
            self._kinds[shape.kind] += 1
            try:
                row = row_of(shape, self.task, *size, keypoints=keypoints)
            except OutsideError:
                self._suited += 1
                self.notes.add(
                    "shape_empty", "{n} objects without area, or outside of their pictures, were left out.", source
                )
                continue
            if row is None:
                continue
            self._suited += 1
            self._upright += row.upright
            if row.clipped:
                self.notes.add("shape_clipped", "{n} objects reached beyond their pictures and were clipped.", source)
            rows.append(
                " ".join([str(ids[shape.label]), *(f"{value:.6f}".rstrip("0").rstrip(".") for value in row.values)])
            )
        return "".join(f"{row}\n" for row in rows)

    # --- the end ---

    def finish(self, format_name: str, class_names: Sequence[str], keypoints: Keypoints | None = None) -> Converted:
        """Check that the dataset suits the task, complete the splits, and write the description."""
        self._refuse_wrong_task()
        if not self._done:
            raise NotADatasetError(
                f"No picture in the archive is labelled for {self.task}. Export the dataset with pictures and labels."
            )
        if self._makes_split:
            self._complete_split()
        description = Description(self.task, tuple(map(readable, class_names)), keypoints)
        self._target.mkdir(parents=True, exist_ok=True)
        write_description(self._target, description)
        return Converted(format_name, description, self.notes.findings())

    def _refuse_wrong_task(self) -> None:
        held = [kind for kind, _number in self._kinds.most_common()]
        plain = self.task is TaskType.ORIENTED_DETECTION and self._upright and self._upright == self._suited
        if held and (not self._suited or plain):
            raise wrong_task(held, self.task)
        left = sum(self._kinds.values()) - self._suited
        if left > 0:
            self.notes.add(
                "shape_left_out", f"{{n}} objects were left out: they are of no use for {self.task}.", number=left
            )

    def _complete_split(self) -> None:
        """Say which pictures went where, and let no side be empty that can be helped."""
        for group, sides in self._sides.items():
            # A class needs training pictures first of all; validation gets one where there are two.
            for empty, full, least in (("train", "val", 1), ("val", "train", 2)):
                if not sides[empty] and sides[full] >= least and self._val_share > 0:
                    self._move(self._nearest[group, full][1], full, empty)
                    sides[empty], sides[full] = 1, sides[full] - 1
        counts = sum(self._sides.values(), Counter[str]())
        self.notes.add(
            "split_made",
            f"The dataset has no validation split, so one was made by lot: {counts['val']:,} of "
            f"{counts.total():,} pictures. Give it folders 'train' and 'val' to decide it yourself.",
        )

    def _move(self, path: str, old: str, new: str) -> None:
        for moved in (path, label_path_of(path)):
            kind, _old, rest = moved.split("/", 2)
            to = self._target / kind / new / rest
            if (self._target / moved).exists():
                to.parent.mkdir(parents=True, exist_ok=True)
                (self._target / kind / old / rest).rename(to)


def wrong_task(held: Sequence[str], task: TaskType) -> NotADatasetError:
    """The dataset holds only what the task cannot use. `held` says what, the most of it first."""
    return NotADatasetError(
        f"The dataset holds {' and '.join(held)} only, which {task} cannot be trained on. "
        f"Import it for {_SUITS[held[0]]}, or export it with the labels for {task}."
    )


def folder_name(class_name: str) -> str:
    """A class name as the name of a folder, which it becomes for classification."""
    name = re.sub(r"[\x00-\x1f/\\:]", "_", readable(class_name)).strip().lstrip(".")
    return name.encode()[:200].decode(errors="ignore") or "_"


def readable(name: str) -> str:
    """`name` without halves of characters and NUL, which JSON can spell and no file or database can hold."""
    return name.encode("utf-8", "replace").decode().replace("\0", "?")


def flip_of(names: Sequence[str]) -> tuple[int, ...]:
    """For each keypoint its mirror image, as `left` and `right` in their names tell; empty where they do not."""
    lowered = [name.lower() for name in names]
    flipped = [_mirrored(name) for name in lowered]
    if lowered == flipped or len(set(lowered)) < len(lowered) or not set(flipped) <= set(lowered):
        return ()
    return tuple(lowered.index(name) for name in flipped)


def _mirrored(name: str) -> str:
    def other(match: re.Match[str]) -> str:
        return {"left": "right", "right": "left", "l": "r", "r": "l"}[match[0]]

    return re.sub(r"left|right|(?<![a-z])[lr](?![a-z])", other, name)


def jpeg_end(path: Path) -> int | None:
    """Where the picture ends in a JPEG that goes on after it, or None for all other files.

    ultralytics takes such a JPEG for damaged and saves it anew in its place, which must not happen to a file that
    jobs share; where it may not write, it leaves the picture out.
    """
    with path.open("rb") as file:
        if file.read(2) != _JPEG_BEGINS or file.seek(0, os.SEEK_END) <= 4:
            return None
        file.seek(-2, os.SEEK_END)
        if file.read() == _JPEG_ENDS:
            return None
        file.seek(0)
        data = file.read(_LARGEST_JPEG)
    end = data.rfind(_JPEG_ENDS) + len(_JPEG_ENDS)
    # A mark in the first half is rather that of a thumbnail, in a picture that was cut short: that is for the check.
    return end if end > len(data) // 2 else None


def _copy_head(source: Path, to: Path, size: int) -> None:
    with source.open("rb") as file:
        to.write_bytes(file.read(size))


def _link_or_copy(source: Path, to: Path) -> None:
    try:
        os.link(source, to, follow_symlinks=False)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, to, follow_symlinks=False)
