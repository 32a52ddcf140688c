"""Unpacking archives that strangers made: every one is hostile until it has been read to its end.

An archive is unpacked into a scratch folder beside `target`, which gets its name only when all is well, so a refusal
leaves nothing behind. Sizes are counted on the bytes that come out, never believed from a header. Members are files
and folders of our own making: no permissions, owners, times or links of the archive's are taken over. Archives within
the archive stay what they are: files.

Zip files go through Python's `zipfile`, once their directory has been counted, because it loads the directory whole
(about 1 KB a member). Tars are read by `apps.storage.tars`.
"""

import errno
import lzma
import os
import shutil
import stat
import struct
import tarfile
import uuid
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

import zstandard

from apps.storage.errors import ArchiveError, DamagedArchiveError, HostileArchiveError, NoRoomError, StorageError
from apps.storage.tars import BLOCK, header_of, read_tar
from apps.storage.unpacking import CHUNK, DEFAULT, Limits, Meter, Unpacker, shown, too_many

__all__ = ["DEFAULT", "Limits", "unpack"]

Progress = Callable[[int, int], None]

_ZIP_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2}  # LZMA may ask for 4 GiB of memory
_FOREIGN = {b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive", b"Rar!\x1a\x07": "a RAR archive"}
# How the decompressors say that their input is broken. Those that say it by OSError give no errno.
_BROKEN = (
    EOFError,
    NotImplementedError,  # zipfile's, of a version of the format that it does not know
    UnicodeDecodeError,
    lzma.LZMAError,
    struct.error,
    tarfile.ReadError,
    zipfile.BadZipFile,
    zlib.error,
    zstandard.ZstdError,
)


def unpack(archive: Path, target: Path, *, limits: Limits = DEFAULT, progress: Progress | None = None) -> None:
    """Unpack a zip or a tar (plain, or compressed by gzip, zstd, bzip2 or xz) into the new folder `target`.

    `progress` is told the bytes of the archive that are done and in all. Raises HostileArchiveError, naming the
    member; DamagedArchiveError; NoRoomError; ArchiveError for what is no such archive or holds nothing.
    """
    scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        scratch.mkdir()
        with archive.open("rb") as file:
            read = _reader_of(file, archive)
            unpacker = Unpacker(scratch, limits)
            read(file, archive.stat().st_size, unpacker, limits, progress)
        if not unpacker.files:
            raise ArchiveError(f"{archive.name} holds no files. Pack the dataset's pictures and labels into it.")
        scratch.rename(target)
    except _BROKEN as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        raise _of_os_error(archive, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _damaged(archive: Path, error: Exception) -> StorageError:
    if isinstance(error, UnicodeDecodeError):
        return HostileArchiveError(
            f"{archive.name} has a member whose name is not UTF-8: {shown(error.object)}. "
            "Rename it, or pack the archive anew with a tool that writes UTF-8 names."
        )
    why = " ".join(str(error).split()) or "it ends too early"
    return DamagedArchiveError(f"{archive.name} is damaged: {why}. Upload it again, or pack it anew.")


def _of_os_error(archive: Path, error: OSError) -> StorageError:
    if error.errno is None:
        return _damaged(archive, error)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return NoRoomError(f"There is no room to unpack {archive.name}. Free disk space where imports are unpacked.")
    return ArchiveError(f"{archive.name} cannot be unpacked: {error.strerror or error}. Mend that, and import again.")


_Reader = Callable[[BinaryIO, int, Unpacker, Limits, Progress | None], None]


def _reader_of(file: BinaryIO, archive: Path) -> _Reader:
    """What reads this kind of archive, told by its first bytes and never by its name."""
    head = file.read(BLOCK)
    file.seek(0)
    if head[:4] in {b"PK\x03\x04", b"PK\x05\x06"}:
        return _read_zip
    if head[:2] == b"\x1f\x8b" or head[:4] == b"\x28\xb5\x2f\xfd" or head[:3] == b"BZh" or head[:6] == b"\xfd7zXZ\x00":
        return read_tar
    if len(head) == BLOCK and (not any(head) or header_of(head) is not None):
        return read_tar
    if head[:4] == b"PK\x07\x08":
        raise ArchiveError(f"{archive.name} is one part of a zip in several parts. Pack it as one file.")
    what = next((name for magic, name in _FOREIGN.items() if head.startswith(magic)), "no archive that is known here")
    raise ArchiveError(f"{archive.name} is {what}. Pack the dataset as zip, tar, tar.gz or tar.zst.")


# --- zip ---


def _read_zip(file: BinaryIO, size: int, to: Unpacker, limits: Limits, progress: Progress | None) -> None:
    _count_directory(file, size, limits)
    # UTF-8 where the flag for it is not set too: macOS writes such names. Others are refused, and not guessed.
    with zipfile.ZipFile(file, metadata_encoding="utf-8") as opened:
        members = opened.infolist()
        _refuse_overlaps(members, opened.start_dir)
        meter = Meter(limits, lambda: size)
        done = 0
        for member in members:
            _refuse_in_zip(member)
            if member.is_dir():
                to.folder(member.orig_filename)
            else:
                with opened.open(member) as source:
                    part = Meter(limits, lambda member=member: member.compress_size)  # type: ignore[misc]
                    to.file(member.orig_filename, _metered(source, meter, part, member.orig_filename))
            done += member.compress_size
            if progress is not None:
                progress(done, size)
    if progress is not None:
        progress(size, size)


def _count_directory(file: BinaryIO, size: int, limits: Limits) -> None:
    """Refuse a zip whose directory is absurd, before `zipfile` loads it."""
    file.seek(max(0, size - (1 << 16) - 22))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise zipfile.BadZipFile("its directory is missing, so it is cut short")
    disk, start_disk, _here, _entries, length, _offset = struct.unpack_from("<4H2L", tail, at + 4)
    end = size - len(tail) + at
    if length == 0xFFFFFFFF or tail[max(0, at - 20) :].startswith(b"PK\x06\x07"):
        length, end, disks = _zip64_directory(file, end)
        disk = start_disk = 0 if disks <= 1 else 1
    if disk or start_disk:
        raise ArchiveError("This zip is one of several parts. Pack it as one file.")
    file.seek(max(0, end - length))
    number = 0
    while number * 46 < length:
        fixed = file.read(46)
        if len(fixed) < 46 or not fixed.startswith(b"PK\x01\x02"):
            break
        number += 1
        if number > limits.entries:
            raise too_many(limits)
        file.seek(sum(struct.unpack_from("<3H", fixed, 28)), os.SEEK_CUR)
    file.seek(0)


def _zip64_directory(file: BinaryIO, end: int) -> tuple[int, int, int]:
    """Length and end of the directory, and the number of disks, as the larger format tells them."""
    file.seek(max(0, end - 20))
    locator = file.read(20)
    if not locator.startswith(b"PK\x06\x07"):
        raise zipfile.BadZipFile("its directory is missing, so it is cut short")
    offset, disks = struct.unpack_from("<QL", locator, 8)
    file.seek(min(offset, end))
    record = file.read(56)
    if len(record) < 56 or not record.startswith(b"PK\x06\x06"):
        raise zipfile.BadZipFile("its directory is missing, so it is cut short")
    return struct.unpack_from("<Q", record, 40)[0], offset, disks


def _refuse_overlaps(members: list[zipfile.ZipInfo], directory: int) -> None:
    """Members that share bytes unpack to far more than the archive holds."""
    starts = array("Q", (member.header_offset for member in members))
    end_before, before = 0, ""
    for at in sorted(range(len(members)), key=starts.__getitem__):
        member = members[at]
        if member.header_offset < end_before:
            raise HostileArchiveError(
                f"{shown(member.orig_filename)} overlaps {shown(before)} in the zip. Pack the archive anew."
            )
        end_before, before = (
            member.header_offset + 30 + len(member.orig_filename) + member.compress_size,
            member.orig_filename,
        )
    if members and end_before > directory:
        raise HostileArchiveError(f"{shown(before)} overlaps the zip's own directory. Pack the archive anew.")


def _refuse_in_zip(member: zipfile.ZipInfo) -> None:
    name = shown(member.orig_filename)
    if member.flag_bits & 0x2041:
        raise HostileArchiveError(f"{name} is encrypted. Pack the archive without a password.")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if stat.S_ISLNK(kind):
        raise HostileArchiveError(f"{name} is a symbolic link. Pack the file itself in its place.")
    if kind and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise HostileArchiveError(f"{name} is neither a file nor a folder. Leave it out of the archive.")
    if member.compress_type not in _ZIP_METHODS:
        method = zipfile.compressor_names.get(member.compress_type, str(member.compress_type))  # type: ignore[attr-defined]
        raise HostileArchiveError(f"{name} is compressed by the method {method!r}. Pack the zip with 'deflate'.")


def _metered(source: IO[bytes], whole: Meter, part: Meter, name: str) -> Iterator[bytes]:
    while data := source.read(CHUNK):
        whole.count(len(data), name)
        part.count(len(data), name)
        yield data
