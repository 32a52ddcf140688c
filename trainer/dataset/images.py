"""Checking one picture: it opens, it is whole, and the trainer will read it as its maker meant it.

Every picture is decoded once and to its end, since only that shows that nothing is missing. A JPEG is decoded to an
eighth of its size and without colours, which reads all of its bytes and computes a fraction of its pixels.

What Pillow cannot see: a JPEG with damage in its middle that still ends as one (decoders paint the rest grey), and a
TIFF or BMP with a header that OpenCV is stricter about; on such a one, training ends and names the file.
"""

import io
import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from trainer.dataset.findings import Severity

SMALLEST_SIDE = 10  # pixels; ultralytics drops smaller pictures
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".jpg", ".jpeg"),  # a JPEG with more views behind the first, as phones write it
    "PNG": (".png",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")  # MPO is opened as a JPEG
# Modes that OpenCV cannot turn into a colour picture, and those that it turns into one with other colours.
_UNREADABLE_MODES = frozenset({"I", "F"})
_UNUSUAL_MODES = frozenset({"CMYK", "LAB", "YCbCr", "I;16", "I;16B", "I;16L", "I;16N"})
_TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112

_PNG_END = b"\x00\x00\x00\x00IEND\xae\x42\x60\x82"
_TAIL = 64

# One picture of the largest size that Pillow opens takes most of a GiB: never two of such at once.
_LARGE_PIXELS = 32_000_000
_one_large_picture = threading.Lock()


class Problem(NamedTuple):
    """A finding without its place."""

    severity: Severity
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Width and height in pixels, as trained on (0 where it cannot be opened), and what is wrong."""

    width: int
    height: int
    problems: tuple[Problem, ...]


def check_picture(source: bytes | Path, suffix: str) -> Picture:
    """Check the picture in `source`, whose file name ends in `suffix`."""
    if source == b"":
        return _unreadable("the file is empty")
    problems: list[Problem] = []
    width = height = 0
    try:
        with Image.open(_stream(source), formats=_FORMATS) as image:
            width, height = image.size
            _check_kind(image, suffix.lower(), problems)
            _check_size(width, height, problems)
            with _room_for(width * height):
                _decode(image)
            if _is_turned(image):
                width, height = height, width
        problems += _check_end(source, image.format)
    except UnidentifiedImageError:
        known = "JPEG, PNG, BMP, TIFF or WebP"
        return _unreadable(f"its bytes are no {known}, or their beginning is damaged")
    except Image.DecompressionBombError:
        message = "More than 178 million pixels, which the trainer refuses to open. Scale it down or cut it into tiles."
        return Picture(0, 0, (Problem("error", "image_too_large", message),))
    except Exception as error:  # noqa: BLE001 - Pillow's readers raise anything on damaged bytes
        why = " ".join(str(error).split())[:200] or type(error).__name__
        if "truncated" in why.lower():
            message = f"Its end is missing ({why}). Copy it anew from where it came from."
            problems.append(Problem("error", "image_truncated", message))
        else:
            problems += _unreadable(why).problems
    return Picture(width, height, tuple(problems))


def _stream(source: bytes | Path) -> io.BytesIO | Path:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _unreadable(why: str) -> Picture:
    message = f"Cannot be opened as a picture: {why}. Replace or remove it."
    return Picture(0, 0, (Problem("error", "image_unreadable", message),))


def _is_turned(image: Image.Image) -> bool:
    """Whether OpenCV swaps width and height by EXIF's orientation. Pillow itself has swapped a TIFF's already."""
    return image.format != "TIFF" and "exif" in image.info and image.getexif().get(_ORIENTATION) in _TURNED


def _check_kind(image: Image.Image, suffix: str, problems: list[Problem]) -> None:
    kind = image.format or ""
    if suffix not in _SUFFIXES.get(kind, ()):
        message = f"Its content is {kind}, its name ends in {suffix}. Rename it, so that every program reads it alike."
        problems.append(Problem("warning", "image_suffix_differs", message))
    if image.mode in _UNREADABLE_MODES:
        message = (
            f"Its pixels are 32-bit numbers (mode {image.mode}), which the trainer cannot read. Convert it to RGB."
        )
        problems.append(Problem("error", "image_mode_unreadable", message))
    elif image.mode in _UNUSUAL_MODES:
        message = (
            f"Its colours are {image.mode}; the trainer makes 8-bit RGB of them, maybe with other tones. Convert it."
        )
        problems.append(Problem("warning", "image_mode_unusual", message))
    if kind != "MPO" and getattr(image, "n_frames", 1) > 1:
        message = "It has several frames or pages, and only the first is used. Save each as a picture of its own."
        problems.append(Problem("warning", "image_has_frames", message))


def _check_size(width: int, height: int, problems: list[Problem]) -> None:
    if min(width, height) < SMALLEST_SIDE:
        least = f"{SMALLEST_SIDE} x {SMALLEST_SIDE}"
        message = f"Only {width} x {height} pixels. Use pictures of {least} or more, or remove it."
        problems.append(Problem("error", "image_too_small", message))
    elif width * height > (Image.MAX_IMAGE_PIXELS or 0) > 0:
        message = f"{width} x {height} pixels take long to read in every epoch. Scale it down or cut it into tiles."
        problems.append(Problem("warning", "image_huge", message))


def _room_for(pixels: int) -> AbstractContextManager[object]:
    return _one_large_picture if pixels > _LARGE_PIXELS else nullcontext()


def _decode(image: Image.Image) -> None:
    width, height = image.size
    image.draft("L", (max(1, width // 8), max(1, height // 8)))  # does nothing but to a JPEG
    image.load()


def _check_end(source: bytes | Path, kind: str | None) -> tuple[Problem, ...]:
    """What decoding does not look at and ultralytics does: a JPEG's last bytes and a PNG's checksums."""
    if kind == "JPEG" and not _ends_as_jpeg(source):
        message = "More bytes follow its end, and the trainer would write it anew, with loss. Save it again."
        return (Problem("warning", "image_has_trailing_bytes", message),)
    if kind == "PNG":
        if isinstance(source, bytes) and _PNG_END not in source[-_TAIL:] and _PNG_END not in source:
            raise OSError("image file is truncated")
        with Image.open(_stream(source), formats=("PNG",)) as image:
            image.verify()
    return ()


def _ends_as_jpeg(source: bytes | Path) -> bool:
    if isinstance(source, bytes):
        return source.endswith(b"\xff\xd9")
    with source.open("rb") as file:
        file.seek(-2, io.SEEK_END)
        return file.read() == b"\xff\xd9"
