"""Reading tars of strangers, plain or compressed, in a stream and in little memory.

Not by `tarfile`, which loads extended headers of any size into memory, and takes an archive that ends in the middle of
a header for complete. Its parser of a single header is used.
"""

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import zstandard

from apps.storage.errors import HostileArchiveError
from apps.storage.unpacking import CHUNK, Limits, Meter, Unpacker, shown

Progress = Callable[[int, int], None]

BLOCK = tarfile.BLOCKSIZE
_MOST_HEADER_BYTES = 1 << 20  # of a tar's extended header: a name and some numbers
_MOST_WINDOW = 1 << 27  # bytes that a zstd archive may ask for to be unpacked; `zstd --long` stays below
_MOST_XZ_MEMORY = 256 << 20
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.GNUTYPE_LONGLINK: "a link",
}


def read_tar(file: BinaryIO, size: int, to: Unpacker, limits: Limits, progress: Progress | None) -> None:
    tar = _TarStream(_decompressed(file), Meter(limits, file.tell))
    name: str | None = None
    length: int | None = None
    while (block := tar.read(BLOCK, "a header")) and any(block):
        member = header_of(block)
        if member is None:
            raise tarfile.ReadError("a header is not that of a tar")
        if member.type in {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}:
            name, length = _pax(tar, member, name, length)
        elif member.type == tarfile.XGLTYPE:
            _extended(tar, member)
        elif member.type == tarfile.GNUTYPE_LONGNAME:
            name = _extended(tar, member).rstrip(b"\0").decode("utf-8")
        else:
            _take(tar, member, name or _name_of(member), member.size if length is None else length, to)
            name = length = None
        if progress is not None:
            progress(file.tell(), size)
    tar.finish()
    if progress is not None:
        progress(size, size)


def _take(tar: "_TarStream", member: tarfile.TarInfo, name: str, size: int, to: Unpacker) -> None:
    """One member that is no extended header of another: a file, a folder, or something refused."""
    if size < 0:
        raise tarfile.ReadError(f"{shown(name)} has a size below zero")
    if member.type in {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE} and not name.endswith("/"):
        to.file(name, tar.content(size, name))
    elif member.type in {tarfile.DIRTYPE, tarfile.AREGTYPE, tarfile.REGTYPE}:
        to.folder(name)  # the size of one is a quota, and no data follows
    else:
        kind = _KINDS.get(member.type, "neither a file nor a folder")
        raise HostileArchiveError(f"{shown(name)} is {kind}. Pack plain files and folders in its place.")


def header_of(block: bytes) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None


def _name_of(member: tarfile.TarInfo) -> str:
    """The name, refused where it is not UTF-8. A trailing slash, which tells a folder in old tars, is kept."""
    return member.name.encode("utf-8", "surrogateescape").decode("utf-8")


def _extended(tar: "_TarStream", member: tarfile.TarInfo) -> bytes:
    if not 0 <= member.size <= _MOST_HEADER_BYTES:
        raise HostileArchiveError(
            f"The archive has an extended header of {member.size:,} bytes. Pack it anew with a usual tool."
        )
    return b"".join(tar.content(member.size, "an extended header"))


def _pax(
    tar: "_TarStream", member: tarfile.TarInfo, name: str | None, size: int | None
) -> tuple[str | None, int | None]:
    """Name and size of the next member, where this extended header tells them."""
    data = _extended(tar, member)
    at = 0
    while at < len(data) and data[at]:
        digits, space, _rest = data[at : at + 20].partition(b" ")
        if not space or not digits.isdigit() or int(digits) <= len(digits) + 1:
            raise tarfile.ReadError("an extended header cannot be read")
        key, _equals, value = data[at + len(digits) + 1 : at + int(digits)].rstrip(b"\n").partition(b"=")
        if key.startswith(b"GNU.sparse"):
            raise HostileArchiveError(f"{shown(name or 'A member')} is a sparse file. Pack it anew without --sparse.")
        if key == b"path":
            name = value.decode("utf-8")
        elif key == b"size":
            if not value.isdigit():
                raise tarfile.ReadError("an extended header has a size that is no number")
            size = int(value[:20])
        at += int(digits)
    return name, size


def _decompressed(file: BinaryIO) -> BinaryIO:
    head = file.read(6)
    file.seek(0)
    if head[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if head[:4] == b"\x28\xb5\x2f\xfd":
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW)
        return decompressor.stream_reader(file, read_across_frames=True, closefd=False)
    if head[:3] == b"BZh":
        return bz2.BZ2File(file)  # type: ignore[return-value]
    if head[:6] == b"\xfd7zXZ\x00":
        return io.BufferedReader(_Xz(file))
    return file


class _Xz(io.RawIOBase):
    """An xz stream, unpacked within a bound of memory, which `lzma.LZMAFile` does not offer."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._decompressor.eof:
            compressed = self._file.read(CHUNK) if self._decompressor.needs_input else b""
            if self._decompressor.needs_input and not compressed:
                raise EOFError("it ends too early")
            data = self._decompressor.decompress(compressed, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)
        return 0


class _TarStream:
    """A tar as it is unpacked. Every byte that comes out is counted, headers and padding too."""

    def __init__(self, source: BinaryIO, meter: Meter) -> None:
        self._source, self._meter = source, meter

    def read(self, size: int, of: str) -> bytes:
        """Exactly `size` bytes."""
        data = b""
        while len(data) < size:
            more = self._source.read(size - len(data))
            if not more:
                raise EOFError("it ends too early")
            data += more
        self._meter.count(len(data), of)
        return data

    def content(self, size: int, name: str) -> Iterator[bytes]:
        left = size
        while left > 0:
            data = self.read(min(left, CHUNK), name)
            left -= len(data)
            yield data
        if size % BLOCK:
            self.read(BLOCK - size % BLOCK, name)

    def finish(self) -> None:
        """Read the padding to its end, where the decompressors compare their checksums."""
        while data := self._source.read(CHUNK):
            self._meter.count(len(data), "the padding at its end")
            if data.strip(b"\0"):
                raise HostileArchiveError("The tar has data after its end. Pack the dataset as one archive.")
