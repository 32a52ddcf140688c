"""Where the members of an archive go, and what none may do, whatever kind of archive it is."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from apps.storage.errors import HostileArchiveError

CHUNK = 1 << 20

_MIB, _GIB = 1 << 20, 1 << 30
_JUNK_FOLDERS = {"__MACOSX"}
_JUNK_FILES = {".ds_store", "thumbs.db", "desktop.ini"}
# Control characters, lone surrogates, line separators, and what turns the direction of writing.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Limits:
    """What an archive may be. Sizes are in bytes, unpacked.

    `ratio` is how many times its own size it, and each of its members, may unpack to; the first `free` bytes of each
    are not held against it, as an empty mask or a plain drawing packs well.
    """

    entries: int = 2_000_000
    total: int = 512 * _GIB
    member: int = 64 * _GIB
    ratio: int = 200
    free: int = 16 * _MIB
    depth: int = 32
    name: int = 255  # bytes of one name: what file systems take
    path: int = 800


DEFAULT = Limits()


class Meter:
    """Counts what comes out of an archive or a member, against its limits and `compressed`, the bytes it came from."""

    def __init__(self, limits: Limits, compressed: Callable[[], int]) -> None:
        self._limits, self._compressed = limits, compressed
        self._done = 0

    def count(self, size: int, name: str) -> None:
        self._done += size
        limits = self._limits
        if self._done > limits.total:
            raise HostileArchiveError(
                f"The archive unpacks to more than {limits.total // _GIB:,} GiB (at {shown(name)}). Split the dataset."
            )
        if self._done > limits.free and self._done > limits.ratio * self._compressed():
            raise HostileArchiveError(
                f"{shown(name)} unpacks to more than {limits.ratio} times its packed size, which pictures and labels "
                "never do. Leave it out, or pack it without compression."
            )


class Unpacker:
    """Writes members below `root`, each once, and refuses what does not belong there."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root, self._limits = root, limits
        self._entries = self.files = 0
        # Hashes of names without case: eight bytes' worth of each, so that two million take 100 MB or so.
        self._names: set[int] = set()
        self._folders: dict[str, str] = {}

    def file(self, name: str, content: Iterable[bytes]) -> None:
        """Write a file, or read past it where it is junk of an operating system's."""
        parts = self._parts(name)
        if not parts or _is_junk(parts):
            for _data in content:
                pass
            return
        self._make_folders(parts[:-1], name)
        key = _folded(parts)
        path = self._root.joinpath(*parts)
        if key in self._folders:
            raise HostileArchiveError(f"{shown(name)} is a file and a folder at once. Rename one of them.")
        if hash(key) in self._names:
            raise self._twice(path, name)
        self._names.add(hash(key))
        self._write(path, name, content)
        self.files += 1

    def folder(self, name: str) -> None:
        parts = self._parts(name)
        if parts and not _is_junk(parts):
            self._make_folders(parts, name)

    def _write(self, path: Path, name: str, content: Iterable[bytes]) -> None:
        size = 0
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            for data in content:
                size += len(data)
                if size > self._limits.member:
                    limit = self._limits.member // _GIB
                    raise HostileArchiveError(f"{shown(name)} unpacks to more than {limit:,} GiB. Leave it out.")
                file.write(data)

    def _parts(self, name: str) -> tuple[str, ...]:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise too_many(self._limits)
        if _UNPRINTABLE.search(name):
            raise HostileArchiveError(f"The name {shown(name)} has control characters. Rename it and pack anew.")
        # The same name is written in two ways by macOS and others; labels and pictures must find each other.
        parts = tuple(part for part in unicodedata.normalize("NFC", name).split("/") if part not in {"", "."})
        if name.startswith("/") or "\\" in name or ".." in parts or re.match("[A-Za-z]:", name):
            raise HostileArchiveError(
                f"The name {shown(name)} points outside the archive or is one of Windows'. Pack the dataset anew, "
                "with names relative to its folder and with forward slashes."
            )
        too_long = any(len(part.encode()) > self._limits.name for part in parts)
        if too_long or sum(len(part.encode()) + 1 for part in parts) > self._limits.path:
            raise HostileArchiveError(f"The name {shown(name)} is too long. Shorten it and pack anew.")
        if len(parts) > self._limits.depth:
            raise HostileArchiveError(f"{shown(name)} lies {len(parts)} folders deep. Flatten the dataset.")
        return parts

    def _make_folders(self, parts: tuple[str, ...], name: str) -> None:
        for depth in range(1, len(parts) + 1):
            actual, key = "/".join(parts[:depth]), _folded(parts[:depth])
            known = self._folders.get(key)
            if known == actual:
                continue
            if known is not None:
                raise self._twice(self._root / actual, actual)
            if hash(key) in self._names:
                raise HostileArchiveError(f"{shown(name)}: {shown(actual)} is a file and a folder. Rename one of them.")
            self._folders[key] = actual
            (self._root / actual).mkdir(mode=0o755)

    def _twice(self, path: Path, name: str) -> HostileArchiveError:
        if path.exists():
            return HostileArchiveError(f"{shown(name)} is in the archive twice. Leave one of them out.")
        return HostileArchiveError(
            f"{shown(name)} differs from another name by upper and lower case or accents alone. Rename one of them."
        )


def _folded(parts: tuple[str, ...]) -> str:
    return unicodedata.normalize("NFC", "/".join(parts).casefold())


def _is_junk(parts: tuple[str, ...]) -> bool:
    return parts[0] in _JUNK_FOLDERS or parts[-1].lower() in _JUNK_FILES or parts[-1].startswith("._")


def too_many(limits: Limits) -> HostileArchiveError:
    return HostileArchiveError(
        f"The archive has more than {limits.entries:,} members. Split the dataset, or leave out what is no part of it."
    )


def shown(name: str | bytes) -> str:
    """A name as an error may show it: short, and with nothing that a terminal or a page would act on."""
    return ascii(name)[:200] if isinstance(name, bytes) or _UNPRINTABLE.search(name) else repr(name)[:200]
