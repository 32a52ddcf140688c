"""Walking through a dataset's folders: every picture with its label, and what is wrong with names and places."""

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.dataset.findings import Finding, Severity
from trainer.dataset.layout import IMAGES, LABELS, SPLITS, has_controls, is_image, is_utf8

LONGEST_PATH = 1_000  # characters; what the platform's database keeps
# ultralytics picks these up beside the pictures it is meant to read, and fails on most of them.
_FOREIGN_PICTURES = frozenset({".avif", ".dng", ".heic", ".heif", ".jp2", ".mpo"})

AddFinding = Callable[[Finding], None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A picture to check. `label` is None where there is no label file. Paths are relative to the dataset."""

    path: str
    split: str
    label: str | None


class Walk:
    """All pictures below `folder`, in the order of their full paths. What is odd on the way goes to `add`."""

    def __init__(self, folder: Path, add: AddFinding, *, labelled: bool) -> None:
        self._folder = folder
        self._add_finding = add
        self._labelled = labelled

    def __iter__(self) -> Iterator[Candidate]:
        for split in self.splits():
            yield from self._walk(split)

    def splits(self) -> list[str]:
        """The splits that there are, in the order of their names."""
        images = self._folder / IMAGES
        there = [split for split in SPLITS if (images / split).is_dir() and not (images / split).is_symlink()]
        return [] if images.is_symlink() else sorted(there)

    def check_places(self) -> None:
        """Find what lies beside the splits' folders, and links at the top."""
        for kind in (IMAGES, LABELS):
            if (self._folder / kind).is_symlink():
                self._add("error", "link", "A link. Put what it points to in its place.", kind)
            for name in self._scan(kind + "/"):
                if name.rstrip("/") not in SPLITS and (kind == IMAGES or name.endswith("/")):
                    splits = ", ".join(SPLITS)
                    message = f"Belongs to none of the splits ({splits}) and is left out. Move or rename it."
                    self._add("warning", "outside_splits", message, f"{kind}/{name}".rstrip("/"))

    def _walk(self, split: str) -> Iterator[Candidate]:
        """Folders and files of one split in order; at any time the names of one folder and those above it are held."""
        levels = [self._listing(split, "")]
        while levels:
            item = next(levels[-1], None)
            if item is None:
                levels.pop()
            elif isinstance(item, str):
                levels.append(self._listing(split, item))
            else:
                yield item

    def _listing(self, split: str, below: str) -> Iterator[Candidate | str]:
        """Pictures of one folder, and the folders in it, as paths below the split that end with a slash."""
        images, labels = f"{IMAGES}/{split}/{below}", f"{LABELS}/{split}/{below}"
        names = self._scan(images)
        label_names = self._scan(labels) if self._labelled else []
        stems = {name[: -len(".txt")] for name in label_names if name.endswith(".txt")}
        self._check_collisions(images, names)
        self._check_label_names(labels, label_names, names)
        folders = {name for name in label_names if name.endswith("/")}.difference(names)
        for name in sorted([*names, *folders]) if folders else names:
            if name.endswith("/"):
                if name == f"{IMAGES}/" and self._labelled:
                    message = "A folder of this name keeps the trainer from finding labels. Rename it, in labels too."
                    self._add("error", "folder_named_images", message, images + IMAGES)
                yield f"{below}{name}"
            elif is_image(name):
                stem = name.rpartition(".")[0]
                label = f"{labels}{stem}.txt" if stem in stems else None
                yield Candidate(images + name, split, label)
            else:
                self._check_foreign(images + name)

    def _scan(self, path: str) -> list[str]:
        """The usable names in a folder, in order, folders with a slash; findings for all others."""
        names: list[str] = []
        if any(os.path.islink(self._folder / place) for place in (path.partition("/")[0], path.rstrip("/"))):
            return names  # where it was found, it was reported; what it points to is not of this dataset
        try:
            with os.scandir(self._folder / path) as entries:
                for entry in entries:
                    if usable := self._usable(path, entry):
                        names.append(usable)  # noqa: PERF401 - a comprehension would hide what it reports
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._add("error", "folder_unreadable", f"Cannot be read: {error.strerror}. Correct its rights.", path)
        names.sort()
        return names

    def _usable(self, folder: str, entry: "os.DirEntry[str]") -> str | None:
        path = folder + entry.name
        if not is_utf8(entry.name):
            shown = path.encode("utf-8", "backslashreplace").decode()
            self._add("error", "name_not_utf8", "Its name is no UTF-8, which no other system reads. Rename it.", shown)
            return None
        if entry.is_symlink():
            self._add("error", "link", "A link. Put what it points to in its place.", path)
            return None
        if entry.name.startswith("."):
            # Looking for pictures, ultralytics passes it over; looking for classes, it does not.
            severity: Severity = "warning" if self._labelled else "error"
            self._add(severity, "hidden_file", "Its name begins with a dot: it is left out. Remove or rename it.", path)
            return None
        if has_controls(entry.name):
            message = "Its name has line breaks or other characters that nobody sees. Rename it."
            self._add("error", "name_not_printable", message, path)
        if len(path) > LONGEST_PATH:
            message = f"Its path has more than {LONGEST_PATH} characters. Shorten the names of its folders."
            self._add("error", "path_too_long", message, path)
            return None
        if entry.is_dir(follow_symlinks=False):
            return f"{entry.name}/"
        if not entry.is_file(follow_symlinks=False):
            self._add("error", "not_a_file", "Neither file nor folder but a pipe or a device. Remove it.", path)
            return None
        return entry.name

    def _check_collisions(self, folder: str, names: list[str]) -> None:
        """Names that are one name on disks that ignore case, and pictures that share a label."""
        for first, second in _same(names, _folded):
            message = f"Differs from {first.rstrip('/')} in case alone: one disk keeps both, another one. Rename it."
            self._add("error", "name_differs_in_case", message, folder + second.rstrip("/"))
        if self._labelled:
            for first, second in _same(filter(is_image, names), lambda name: name.rpartition(".")[0]):
                message = f"Shares its label with {first}. Rename one, and its label."
                self._add("warning", "label_shared", message, folder + second)

    def _check_label_names(self, folder: str, labels: list[str], images: list[str]) -> None:
        stems = {name.rpartition(".")[0] for name in images if is_image(name)}
        for name in labels:
            path = folder + name
            if name.endswith(".txt/"):
                message = "A folder, where a label would be. Remove or rename it."
                self._add("error", "label_not_a_file", message, path.rstrip("/"))
            elif name.endswith(".txt"):
                if name[: -len(".txt")] not in stems:
                    message = "A label without a picture. Add the picture or remove the label."
                    self._add("warning", "image_missing", message, path)
            elif name.lower().endswith(".txt"):
                message = "Is no label to the trainer, which looks for .txt in small letters. Rename it."
                self._add("error", "label_suffix", message, path)

    def _check_foreign(self, path: str) -> None:
        suffix = os.path.splitext(path)[1].lower()
        if suffix == ".npy":
            message = "The trainer would read this array in place of the picture of its name. Remove it."
            self._add("error", "array_beside_image", message, path)
        elif suffix in _FOREIGN_PICTURES:
            self._add("error", "image_kind_unsupported", "Convert it to JPEG or PNG, or remove it.", path)
        else:
            message = "Not a kind of picture that is trained on. Remove or convert it."
            self._add("warning", "not_an_image", message, path)

    def _add(self, severity: Severity, code: str, message: str, path: str) -> None:
        self._add_finding(Finding(severity, code, message, path))


def _same(names: Iterable[str], key: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Each name whose key an earlier one has, after that one."""
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(key(name), name)
        if first is not name:
            yield first, name


def _folded(name: str) -> str:
    """Equal for the names that a disk may take for one, as those of macOS and Windows do."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()
