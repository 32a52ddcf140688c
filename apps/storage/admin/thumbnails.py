"""Small pictures for the gallery: made once, kept on disk by what they show, and let go of when they are many."""

import io
import os
import secrets
from contextlib import suppress
from pathlib import Path
from threading import BoundedSemaphore

from django.conf import settings
from django.utils.translation import gettext as _
from PIL import Image, ImageOps, UnidentifiedImageError

THUMBNAIL, PREVIEW = 320, 1600
SIDES = (THUMBNAIL, PREVIEW)
KEPT_BYTES = 512 * 1024 * 1024
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_MOST_BYTES = 64 * 1024 * 1024  # of a picture's file
_TIDY_EVERY = 200  # thumbnails made, more or less, between two looks at how much there is
# A large picture takes hundreds of MB while it is decoded.
_decoding = BoundedSemaphore(2)


class UnreadablePictureError(Exception):
    """The picture cannot be shown; the message says why."""


def scaled(data: bytes, side: int) -> bytes:
    """The picture as an upright JPEG, no side longer than `side` pixels. Raises UnreadablePictureError."""
    try:
        with _decoding, Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _refuse_bomb(image)
            image.draft("RGB", (side, side))
            upright = ImageOps.exif_transpose(_reduced(image, side))
            return _as_jpeg(upright)
    except UnidentifiedImageError as error:
        raise UnreadablePictureError(_("No picture that can be read")) from error
    except Image.DecompressionBombError as error:
        raise UnreadablePictureError(_("Too large to be shown")) from error
    # What Pillow's decoders raise for damaged data is not one family.
    except (OSError, ValueError, SyntaxError, IndexError, EOFError, MemoryError, OverflowError) as error:
        raise UnreadablePictureError(_("Damaged or cut short")) from error


def refuse_large(size: int) -> None:
    """Raises UnreadablePictureError for a file that is not worth reading for a small picture."""
    if size > _MOST_BYTES:
        raise UnreadablePictureError(_("Too large to be shown"))


def _refuse_bomb(image: Image.Image) -> None:
    """Pillow itself only warns up to twice its limit."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise UnreadablePictureError(_("Too large to be shown"))


def _reduced(image: Image.Image, side: int) -> Image.Image:
    """At most `side` by `side`, with at least the colours that there were."""
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more: the range that is used becomes 8
        image.thumbnail((side, side))
        low, high = (float(value) for value in image.getextrema() if not isinstance(value, tuple))
        factor = 255.0 / ((high - low) or 1.0)
        wide = image.convert("F" if image.mode == "F" else "I")
        return wide.point(lambda value: value * factor + -low * factor).convert("L")
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    image.thumbnail((side, side))
    return image


def _as_jpeg(image: Image.Image) -> bytes:
    if image.mode in ("RGBA", "LA"):
        ground = Image.new("RGB", image.size, "white")
        ground.paste(image.convert("RGB"), mask=image.getchannel("A"))
        image = ground
    target = io.BytesIO()
    image.convert("RGB").save(target, "JPEG", quality=82)
    return target.getvalue()


# --- kept on disk -------------------------------------------------------------------------------------------------
def kept(sha256: str, side: int) -> bytes | None:
    """The small picture of the picture with this digest, if it was made before."""
    with suppress(OSError):
        return _path(sha256, side).read_bytes()
    return None


def keep(sha256: str, side: int, data: bytes) -> None:
    """Remember it for the next one who looks. A disk that refuses costs only the time to make it again."""
    path = _path(sha256, side)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    if secrets.randbelow(_TIDY_EVERY) == 0:
        tidy(KEPT_BYTES)


def tidy(limit: int) -> None:
    """Remove the oldest until they take no more than 80 % of `limit` bytes, where they take more than it."""
    found: list[tuple[float, int, str]] = []
    for folder, _folders, names in os.walk(_folder()):
        for name in names:
            path = os.path.join(folder, name)
            with suppress(OSError):  # another process tidies too
                status = os.stat(path)
                found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _time, size, _path in found)
    if total <= limit:
        return
    for _time, size, path in sorted(found):
        with suppress(OSError):
            os.unlink(path)
        total -= size
        if total <= limit * 0.8:
            return


def _folder() -> Path:
    return Path(settings.DATA_DIR) / "thumbnails"


def _path(sha256: str, side: int) -> Path:
    return _folder() / sha256[:2] / f"{sha256}-{side}.jpg"
