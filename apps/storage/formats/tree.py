"""The files of an unpacked dataset, and how a name in an annotation finds one of them.

Nothing is ever read that is not below the folder: a name is looked up in the list of files, never opened as a path.
"""

import json
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException
from PIL import Image, UnidentifiedImageError

from apps.storage.errors import NotADatasetError
from trainer.dataset.layout import IMAGE_SUFFIXES

# Annotations are loaded whole. That of COCO's 118,000 training pictures has 450 MB, and takes about 4 GB of memory.
MOST_JSON_BYTES = 2 << 30
MOST_TEXT_BYTES = 64 << 20
MOST_XML_BYTES = 8 << 20  # of one picture's; CVAT's, of all pictures, is read in a stream

_SPLITS = {
    "train": {"train", "training"},
    "val": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing"},
}
_PICTURE_FOLDERS = {"images", "jpegimages", "image", "imgs", "img"}
_MOST_ALIKE = 100  # pictures of one name that are compared with an annotation's path
_EXIF_ORIENTATION, _TURNED = 0x0112, {5, 6, 7, 8}


def split_of_word(word: str) -> str | None:
    """`train2017`, `valid`, `obj_train_data` → the split that it means."""
    match = re.fullmatch(r"(?:obj_)?([a-z]+?)[-_]?(?:\d{4})?(?:_data)?", word.lower())
    return next((split for split, words in _SPLITS.items() if match and match[1] in words), None)


def split_of_path(path: str) -> str | None:
    """The split that a folder on the way to the file names; the outermost wins."""
    return next((split for part in path.split("/")[:-1] if (split := split_of_word(part))), None)


def split_of_file(path: str) -> str | None:
    """The split of an annotation file, by its own name (`instances_val2017.json`) or else by its folders."""
    words = re.split(r"[^a-z0-9]+", PurePosixPath(path).stem.lower())
    return next((split for word in words if (split := split_of_word(word))), None) or split_of_path(path)


def plain_name(path: str) -> str:
    """Where a picture lies within its split: its path without the folders that name splits or say `images`."""
    *folders, name = path.split("/")
    kept = [part for part in folders if not split_of_word(part) and part.lower() not in _PICTURE_FOLDERS]
    return "/".join([*kept, name])


def is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES


class Tree:
    """The files below `root`, as sorted paths with slashes, relative to the folder in which the dataset really begins.

    Links are not followed, and not listed: `links` counts them.
    """

    def __init__(self, root: Path) -> None:
        self.links = 0
        self._actual: dict[str, str] = {}  # names that macOS decomposed
        self.root = self._descend(root)
        self.files = sorted(self._walk())
        self._known = frozenset(self.files)

    def path(self, name: str) -> Path:
        return self.root / self._actual.get(name, name)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    @cached_property
    def images(self) -> list[str]:
        return [name for name in self.files if is_image(name)]

    @cached_property
    def folders(self) -> frozenset[str]:
        found: set[str] = set()
        for name in self.files:
            parent = name.rpartition("/")[0]
            while parent and parent not in found:
                found.add(parent)
                parent = parent.rpartition("/")[0]
        return frozenset(found)

    def of_suffix(self, *suffixes: str) -> list[str]:
        return [name for name in self.files if name.lower().endswith(suffixes)]

    def image(self, name: str, *folders: str) -> str | None:
        """The picture that an annotation calls `name`: below one of `folders`, or the only one that ends like it.

        `name` may be a path of another machine, an address, or a storage's key: what counts is how it ends.
        """
        parts = _parts_of(name)
        for start in range(len(parts)):
            ending = "/".join(parts[start:])
            for folder in (*folders, ""):
                if (candidate := f"{folder}/{ending}" if folder else ending) in self._known and is_image(candidate):
                    return candidate
        alike = self._by_basename.get(parts[-1], []) if parts else []
        if len(alike) > _MOST_ALIKE:
            return None
        for start in range(len(parts)):
            ending = "/" + "/".join(parts[start:])
            if found := [candidate for candidate in alike if f"/{candidate}".endswith(ending)]:
                return found[0] if len(found) == 1 else None
        return None

    def image_of_stem(self, stem: str, *folders: str) -> str | None:
        """The picture with this path but for its suffix, below one of `folders` or anywhere if there is one alone."""
        for folder in folders:
            if found := self._by_stem.get(f"{folder}/{stem}" if folder else stem):
                return found[0]
        return None

    @cached_property
    def _by_basename(self) -> dict[str, list[str]]:
        return _grouped(self.images, lambda name: name.rpartition("/")[2])

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _grouped(self.images, lambda name: os.path.splitext(name)[0])

    def text(self, name: str) -> str:
        return self._bytes(name, MOST_TEXT_BYTES).decode("utf-8-sig", errors="replace")

    def xml(self, name: str) -> Element:
        """The root of a small XML file. Raises NotADatasetError."""
        try:
            root: Element = defusedxml.ElementTree.fromstring(self._bytes(name, MOST_XML_BYTES), forbid_dtd=True)
        except (ParseError, DefusedXmlException, ValueError) as error:
            raise unreadable(name, "XML", error) from error
        return root

    def open(self, name: str) -> BinaryIO:
        return self.path(name).open("rb")

    def size_of_image(self, name: str) -> tuple[int, int] | None:
        """Width and height in pixels as trained on, from the header alone; None where it cannot be told."""
        try:
            with Image.open(self.path(name)) as image:
                turned = image.getexif().get(_EXIF_ORIENTATION) in _TURNED
                return (image.height, image.width) if turned else (image.width, image.height)
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None  # the check that follows says what is wrong with it

    def _bytes(self, name: str, most: int) -> bytes:
        path = self.path(name)
        if path.stat().st_size > most:
            raise NotADatasetError(f"{name} is larger than {most >> 20} MiB, which no such file is. Leave it out.")
        return path.read_bytes()

    def _descend(self, root: Path) -> Path:
        """Past folders that hold one other folder and nothing else to speak of (`coco8/…`)."""
        while True:
            entries = [entry for entry in os.scandir(root) if not entry.name.startswith(".")]
            folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
            inner = root / folders[0].name if len(folders) == 1 and len(entries) == 1 else None
            if inner is None or split_of_word(inner.name) or inner.name.lower() in {*_PICTURE_FOLDERS, "labels"}:
                return root
            if not any(entry.is_dir(follow_symlinks=False) for entry in os.scandir(inner)) and not any(
                entry.name.lower().endswith((".yaml", ".yml", ".json", ".xml", ".txt")) for entry in os.scandir(inner)
            ):
                return root  # one folder with nothing but pictures is a class
            root = inner

    def _walk(self) -> Iterator[str]:
        for parent, folders, names in os.walk(self.root, onerror=_reraise):
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
            at = os.path.relpath(parent, self.root)
            prefix = "" if at == "." else f"{at}/"
            self.links += sum(os.path.islink(os.path.join(parent, name)) for name in folders)
            for name in names:
                if os.path.islink(os.path.join(parent, name)):
                    self.links += 1
                elif not name.startswith("."):
                    composed = unicodedata.normalize("NFC", prefix + name)
                    if composed != prefix + name:
                        self._actual[composed] = prefix + name
                    yield composed


def _grouped(names: list[str], key: Any) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def _parts_of(name: str) -> list[str]:
    """The parts of a path, an address or a key, without what would lead elsewhere."""
    if re.match(r"[a-z][a-z0-9+.-]*://|/data/", name, re.IGNORECASE):
        with suppress(ValueError):  # it only looks like an address: http://[x/1.jpg
            url = urlsplit(name)
            name = unquote(parse_qs(url.query).get("d", [url.path])[0])
    name = unicodedata.normalize("NFC", name.replace("\\", "/"))
    return [part for part in name.split("/") if part not in {"", ".", ".."}]


def size_of(width: object, height: object) -> tuple[float, float] | None:
    """A picture's size as an annotation tells it, None where that is no size."""
    if isinstance(width, int | float) and isinstance(height, int | float) and 0 < width < 1e6 and 0 < height < 1e6:
        return float(width), float(height)
    return None


def parts_of(name: str) -> list[str]:
    return _parts_of(name)


def read_json(tree: Tree, name: str, whole: str) -> Any:
    """What the JSON file `name` holds, which is loaded as a whole; `whole` is what to split where it is too large."""
    if tree.path(name).stat().st_size > MOST_JSON_BYTES:
        raise NotADatasetError(f"{name} is larger than {MOST_JSON_BYTES >> 30} GiB. Split the {whole}.")
    try:
        with tree.open(name) as file:
            return json.load(file)
    except (ValueError, RecursionError) as error:
        raise unreadable(name, "JSON", error) from error


def unreadable(name: str, what: str, error: Exception) -> NotADatasetError:
    why = " ".join(str(error).split())[:200] or type(error).__name__
    return NotADatasetError(f"{name} cannot be read as {what}: {why}. Export it anew.")


def _reraise(error: OSError) -> None:
    raise error
