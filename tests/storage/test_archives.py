"""Archives that were made to do harm, and those that only look like it."""

import gzip
import io
import os
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from apps.storage.archives import Limits, unpack
from apps.storage.errors import ArchiveError, DamagedArchiveError, HostileArchiveError, NoRoomError, StorageError
from published import published

MIB = 1 << 20


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work" / "unpacked"


def zip_of(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def tar_of(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def tar_with(path: Path, member: tarfile.TarInfo, data: bytes = b"") -> Path:
    with tarfile.open(path, "w") as archive:
        archive.addfile(member, io.BytesIO(data))
    return path


def refused(
    archive: Path,
    target: Path,
    words: str,
    *,
    error: type[StorageError] = HostileArchiveError,
    limits: Limits | None = None,
) -> None:
    """The archive is refused with `words`, and nothing is left behind."""
    with pytest.raises(error, match=words) as caught:
        unpack(archive, target, limits=limits or Limits())
    assert len(str(caught.value)) < 500
    assert list(target.parent.iterdir()) == []


def files_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


GOOD = {"images/train/ä.jpg": b"picture", "labels/train/ä.txt": b"0 0.5 0.5 1 1\n", "empty.txt": b""}


def compressed(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "dataset.bin"  # its name tells nothing
    if kind == "zip":
        return zip_of(path, GOOD)
    if kind == "tar.zst":
        tar_of(path, GOOD)
        path.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(path.read_bytes()))
        return path
    return tar_of(path, GOOD, {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}[kind])


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.zst", "tar.bz2", "tar.xz"])
def test_every_kind_is_told_by_its_content_and_unpacked(tmp_path: Path, target: Path, kind: str) -> None:
    archive = compressed(tmp_path, kind)
    told: list[tuple[int, int]] = []
    unpack(archive, target, progress=lambda done, total: told.append((done, total)))
    assert files_below(target) == GOOD
    size = archive.stat().st_size
    assert told[-1] == (size, size)
    assert told == sorted(told)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.zst", "tar.bz2", "tar.xz"])
def test_an_archive_that_is_cut_short_is_refused_wherever_it_ends(tmp_path: Path, target: Path, kind: str) -> None:
    archive = compressed(tmp_path, kind)
    whole = archive.read_bytes()
    content = len(whole) if kind != "tar" else whole.rindex(b"0 0.5") + 1024
    for share in (0.3, 0.6, 0.9):
        archive.write_bytes(whole[: int(content * share)])
        refused(archive, target, "damaged|no archive", error=ArchiveError)


@pytest.mark.parametrize("kind", ["gnu", "pax", "ustar"])
def test_long_names_and_folders_of_every_tar_dialect_arrive(tmp_path: Path, target: Path, kind: str) -> None:
    name = "a" * 90 + "/" + "b" * 80 + ".txt"
    dialect = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}[kind]
    with tarfile.open(tmp_path / "long.tar", "w", format=dialect) as archive:
        folder = tarfile.TarInfo("./empty")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        member = tarfile.TarInfo(name)
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    unpack(tmp_path / "long.tar", target)
    assert files_below(target) == {name: b"abc"}
    assert (target / "empty").is_dir()


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "a\\..\\evil", "C:/evil", "c:evil", ".."])
def test_a_name_that_points_outside_is_refused(tmp_path: Path, target: Path, name: str) -> None:
    refused(zip_of(tmp_path / "a.zip", {"ok.txt": b"", name: b"x"}), target, "points outside")
    refused(tar_of(tmp_path / "a.tar", {"ok.txt": b"", name: b"x"}), target, "points outside")
    assert not (tmp_path / "evil").exists()


def test_a_name_with_a_nul_or_a_line_break_is_refused(tmp_path: Path, target: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"aXb.txt": b"x"})
    path.write_bytes(path.read_bytes().replace(b"aXb.txt", b"a\0b.txt"))
    refused(path, target, r"a\\x00b.txt.*control characters")
    refused(zip_of(tmp_path / "b.zip", {"a\nb": b"x"}), target, "control characters")
    refused(tar_of(tmp_path / "b.tar", {"a\x1b[2J": b"x"}), target, "control characters")
    refused(tar_of(tmp_path / "c.tar", {"gpj.\u202eexe": b"x"}), target, "control characters")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "named pipe"),
        (b"V", "neither a file nor a folder"),
    ],
)
def test_a_tar_member_that_is_no_file_is_refused(tmp_path: Path, target: Path, kind: bytes, words: str) -> None:
    member = tarfile.TarInfo("link")
    member.type, member.linkname = kind, "/etc/passwd"
    refused(tar_with(tmp_path / "a.tar", member), target, words)


def test_a_link_in_a_zip_is_refused(tmp_path: Path, target: Path) -> None:
    for kind, words in ((stat.S_IFLNK, "symbolic link"), (stat.S_IFIFO, "neither a file"), (stat.S_IFCHR, "neither")):
        member = zipfile.ZipInfo("link")
        member.external_attr = (kind | 0o777) << 16
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(member, "/etc/passwd")
        refused(tmp_path / "a.zip", target, words)


def test_sparse_members_are_refused(tmp_path: Path, target: Path) -> None:
    member = tarfile.TarInfo("holes")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 50)}
    refused(tar_with(tmp_path / "pax.tar", member), target, "sparse file")
    if os.access("/bin/tar", os.X_OK):
        with (tmp_path / "holes").open("wb") as file:
            file.truncate(64 * MIB)
        subprocess.run(
            ["tar", "-C", tmp_path, "--sparse", "--format=gnu", "-cf", tmp_path / "gnu.tar", "holes"], check=True
        )
        refused(tmp_path / "gnu.tar", target, "sparse file")


def test_a_bomb_is_refused_by_what_comes_out_of_it(tmp_path: Path, target: Path) -> None:
    limits = Limits(free=MIB)
    zeros = bytes(8 * MIB)
    refused(zip_of(tmp_path / "a.zip", {"bomb": zeros}), target, "'bomb' unpacks to more than 200", limits=limits)
    refused(tar_of(tmp_path / "a.tgz", {"bomb": zeros}, "w:gz"), target, "more than 200", limits=limits)
    plain = tar_of(tmp_path / "a.tar", {"bomb": zeros})
    plain.write_bytes(zstandard.compress(plain.read_bytes()))
    refused(plain, target, "more than 200", limits=limits)


def test_many_small_bombs_are_one_bomb(tmp_path: Path, target: Path) -> None:
    limits = Limits(free=MIB)
    refused(zip_of(tmp_path / "a.zip", {f"{n}": bytes(MIB - 1) for n in range(20)}), target, "200", limits=limits)


def test_what_unpacks_past_the_total_or_the_size_of_a_member_is_refused(tmp_path: Path, target: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {str(n): os.urandom(MIB) for n in range(4)}, zipfile.ZIP_STORED)
    refused(archive, target, "Split the dataset", limits=Limits(total=3 * MIB))
    refused(archive, target, "Leave it out", limits=Limits(member=MIB - 1))
    unpack(archive, target, limits=Limits(total=4 * MIB, member=MIB))


def test_a_header_that_lies_about_the_size_deceives_nobody(tmp_path: Path, target: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"bomb": bytes(8 * MIB)})
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<L", 8 * MIB), struct.pack("<L", 10)))
    refused(path, target, "damaged.*CRC", error=DamagedArchiveError)


def test_an_empty_mask_that_packs_well_is_no_bomb(tmp_path: Path, target: Path) -> None:
    unpack(zip_of(tmp_path / "a.zip", {"mask.bmp": bytes(10 * MIB)}), target)
    assert (target / "mask.bmp").stat().st_size == 10 * MIB


def test_a_padding_bomb_after_the_end_of_a_tar_is_refused(tmp_path: Path, target: Path) -> None:
    tar_of(tmp_path / "a.tar", {"ok": b"x"})
    with gzip.open(tmp_path / "a.tgz", "wb") as file:
        file.write((tmp_path / "a.tar").read_bytes() + bytes(8 * MIB))
    refused(tmp_path / "a.tgz", target, "padding", limits=Limits(free=MIB))


def test_data_after_the_end_of_a_tar_is_refused(tmp_path: Path, target: Path) -> None:
    archive = tar_of(tmp_path / "a.tar", {"ok": b"x"})
    archive.write_bytes(archive.read_bytes() + b"more")
    refused(archive, target, "after its end")


def test_a_tar_header_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path, target: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
        member = tarfile.TarInfo("header")
        member.type, member.size = kind, 1 << 34
        (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        refused(tmp_path / "a.tar", target, "extended header of")


def test_a_tar_header_below_zero_is_refused(tmp_path: Path, target: Path) -> None:
    header = bytearray(tarfile.TarInfo("a").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 12
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    refused(tmp_path / "a.tar", target, "below zero", error=DamagedArchiveError)


def test_absurd_counts_are_refused_before_and_while_unpacking(tmp_path: Path, target: Path) -> None:
    members = {f"{n}.txt": b"" for n in range(11)}
    refused(zip_of(tmp_path / "a.zip", members), target, "more than 10 members", limits=Limits(entries=10))
    refused(tar_of(tmp_path / "a.tar", members), target, "more than 10 members", limits=Limits(entries=10))
    unpack(zip_of(tmp_path / "b.zip", members), target, limits=Limits(entries=11))


def test_depth_and_length_of_names_are_bounded(tmp_path: Path, target: Path) -> None:
    refused(zip_of(tmp_path / "a.zip", {"a/" * 33 + "b": b""}), target, "folders deep")
    refused(tar_of(tmp_path / "a.tar", {"a/" * 33 + "b": b""}), target, "folders deep")
    refused(zip_of(tmp_path / "a.zip", {"ä" * 128: b""}), target, "too long")
    refused(tar_of(tmp_path / "a.tar", {("a" * 200 + "/") * 5: b""}), target, "too long")


@pytest.mark.parametrize(
    ("first", "second"),
    [("a/B.jpg", "a/b.jpg"), ("a/x", "A/y"), ("straße", "STRASSE"), ("e\u0301\u0323", "E\u0323\u0301")],
)
def test_names_that_differ_by_case_or_accents_alone_are_refused(
    tmp_path: Path, target: Path, first: str, second: str
) -> None:
    refused(zip_of(tmp_path / "a.zip", {first: b"1", second: b"2"}), target, "differs from another|twice")
    refused(tar_of(tmp_path / "a.tar", {first: b"1", second: b"2"}), target, "differs from another|twice")


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path, target: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("same", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("same", "2")
    refused(tmp_path / "a.zip", target, "twice")
    refused(tar_of(tmp_path / "a.tar", {"same": b"1", "./same": b"2"}), target, "twice")


def test_a_file_that_is_a_folder_too_is_refused(tmp_path: Path, target: Path) -> None:
    refused(zip_of(tmp_path / "a.zip", {"a": b"1", "a/b": b"2"}), target, "a file and a folder")
    refused(tar_of(tmp_path / "a.tar", {"a/b": b"2", "A": b"1"}), target, "a file and a folder")


def test_names_are_unpacked_in_composed_form(tmp_path: Path, target: Path) -> None:
    unpack(zip_of(tmp_path / "a.zip", {"a\u0308.jpg": b"1"}), target)
    assert list(files_below(target)) == ["ä.jpg"]


def test_an_encrypted_zip_is_refused(tmp_path: Path, target: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"a": b"secret"})
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(data))
    refused(path, target, "'a' is encrypted")


@pytest.mark.parametrize("method", [9, 14, 93, 99])
def test_an_unknown_or_hungry_compression_is_refused(tmp_path: Path, target: Path, method: int) -> None:
    path = zip_of(tmp_path / "a.zip", {"a": b"x"})
    data = bytearray(path.read_bytes())
    data[8] = data[data.index(b"PK\x01\x02") + 10] = method
    path.write_bytes(bytes(data))
    refused(path, target, "compressed by the method")


def test_a_wrong_checksum_is_refused(tmp_path: Path, target: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"a": b"picture"}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"picture", b"pikture"))
    refused(path, target, "damaged.*CRC", error=DamagedArchiveError)
    packed = tar_of(tmp_path / "a.tgz", GOOD, "w:gz")
    packed.write_bytes(packed.read_bytes()[:-8] + bytes(8))
    refused(packed, target, "damaged", error=DamagedArchiveError)


def test_zip_members_that_share_bytes_are_refused(tmp_path: Path, target: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"a": b"1234", "b": b"5678"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = bytes(4)  # its data, says the directory, are those of the first
    path.write_bytes(bytes(data))
    refused(path, target, "overlaps")


def test_names_that_are_not_utf8_are_refused(tmp_path: Path, target: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"aXb": b"x"})
    path.write_bytes(path.read_bytes().replace(b"aXb", b"a\xe4b"))
    refused(path, target, r"not UTF-8: b'a\\xe4b'")
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("aäb"))
    refused(tmp_path / "a.tar", target, r"not UTF-8: b'a\\xe4b'")


def test_names_in_utf8_without_the_flag_for_it_are_read_as_macos_means_them(tmp_path: Path, target: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"aXXb": b"x"})
    path.write_bytes(path.read_bytes().replace(b"aXXb", "aäb".encode()))
    unpack(path, target)
    assert list(files_below(target)) == ["aäb"]


def test_junk_of_operating_systems_is_left_out(tmp_path: Path, target: Path) -> None:
    junk = {"__MACOSX/a/._b.jpg": b"x", "a/.DS_Store": b"x", "a/Thumbs.db": b"x", "desktop.ini": b"x"}
    junk["a/._b.jpg"] = b"x"
    unpack(zip_of(tmp_path / "a.zip", {"a/b.jpg": b"1"} | junk), target)
    assert files_below(target) == {"a/b.jpg": b"1"}
    (tmp_path / "other").mkdir()
    refused(tar_of(tmp_path / "b.tar", junk), tmp_path / "other" / "x", "holds no files", error=ArchiveError)


def test_modes_and_owners_of_the_archive_are_not_taken_over(tmp_path: Path, target: Path) -> None:
    member = tarfile.TarInfo("a/run.sh")
    member.mode = 0o6777
    unpack(tar_with(tmp_path / "a.tar", member), target)
    assert stat.S_IMODE((target / "a/run.sh").stat().st_mode) == 0o644
    assert stat.S_IMODE((target / "a").stat().st_mode) & 0o7022 == 0


def test_an_archive_in_the_archive_stays_a_file(tmp_path: Path, target: Path) -> None:
    inner = zip_of(tmp_path / "inner.zip", {"a": b"1"}).read_bytes()
    unpack(zip_of(tmp_path / "a.zip", {"inner.zip": inner}, zipfile.ZIP_STORED), target)
    assert files_below(target) == {"inner.zip": inner}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no archive"),
        (b"hello" * 200, "no archive"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(600), "7-Zip"),
        (b"Rar!\x1a\x07\x01\x00" + bytes(600), "RAR"),
        (b"PK\x07\x08" + bytes(600), "several parts"),
        (b"PK\x05\x06" + bytes(18), "holds no files"),
        (bytes(10240), "holds no files"),
    ],
)
def test_what_is_no_archive_is_told_in_words(tmp_path: Path, target: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", target, words, error=ArchiveError)


def test_one_part_of_a_zip_in_several_is_refused(tmp_path: Path, target: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"a": b"1"})
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x05\x06") + 4] = 1
    path.write_bytes(bytes(data))
    refused(path, target, "several parts", error=ArchiveError)


def test_a_zip_larger_than_the_small_format_allows_is_read(tmp_path: Path, target: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(65_600):  # more members than two bytes can count, junk so that none is written
            archive.writestr(f"__MACOSX/{number}", b"")
        archive.writestr("a.txt", b"hello")
    unpack(tmp_path / "a.zip", target)
    assert files_below(target) == {"a.txt": b"hello"}


def test_a_zip_that_does_not_know_sizes_ahead_is_read(tmp_path: Path, target: Path) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.data += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[arg-type]
        archive.writestr("a.txt", b"hello" * 1000)
        archive.writestr("b.txt", b"world")
    (tmp_path / "a.zip").write_bytes(pipe.data)
    unpack(tmp_path / "a.zip", target)
    assert files_below(target) == {"a.txt": b"hello" * 1000, "b.txt": b"world"}


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from apps.storage import archives, errors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    archives.unpack(Path(sys.argv[1]), Path(sys.argv[2]))
except errors.ArchiveError as error:
    print(type(error).__name__, error)
"""


def test_a_disk_that_refuses_more_is_told_and_nothing_is_left(tmp_path: Path, target: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"a": os.urandom(MIB)}, zipfile.ZIP_STORED)
    code = _FULL_DISK.format(root=str(Path(__file__).resolve().parents[2]))
    said = subprocess.run([sys.executable, "-c", code, archive, target], capture_output=True, text=True, check=True)
    assert "cannot be unpacked: File too large" in said.stdout
    assert list(target.parent.iterdir()) == []


def test_a_full_disk_is_an_error_of_its_own(tmp_path: Path) -> None:
    if os.geteuid() != 0 or subprocess.run(["mountpoint", "-q", "/dev/shm"], check=False).returncode:
        pytest.skip("needs root, to mount a small file system")
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        archive = zip_of(tmp_path / "a.zip", {"a": os.urandom(2 * MIB)}, zipfile.ZIP_STORED)
        refused(archive, small / "target", "no room", error=NoRoomError)
    finally:
        subprocess.run(["umount", small], check=True)


_MEMORY = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from apps.storage import archives
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
archives.unpack(Path(sys.argv[1]), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_large_member_takes_little_memory(tmp_path: Path, target: Path, kind: str) -> None:
    data = os.urandom(MIB) * 100
    archive = zip_of(tmp_path / "a", {"a": data}) if kind == "zip" else tar_of(tmp_path / "a", {"a": data}, "w:gz")
    code = _MEMORY.format(root=str(Path(__file__).resolve().parents[2]))
    said = subprocess.run([sys.executable, "-c", code, archive, target], capture_output=True, text=True, check=True)
    assert int(said.stdout) < 30 * 1024  # KiB


@pytest.mark.parametrize("name", ["coco8", "coco8-seg", "coco8-pose", "dota8", "imagenet10"])
def test_published_archives_unpack_to_what_they_hold(target: Path, name: str) -> None:
    archive = published(f"{name}.zip")
    unpack(archive, target)
    with zipfile.ZipFile(archive) as opened:
        assert files_below(target) == {i.filename: opened.read(i) for i in opened.infolist() if not i.is_dir()}
