"""The addresses of a version's pictures: small, as they are, and why one cannot be shown."""

from http import HTTPStatus
from itertools import chain
from pathlib import PurePosixPath

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.utils.cache import get_conditional_response
from django.utils.html import format_html
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _

from apps.projects.admin import person_of
from apps.storage.admin import thumbnails
from apps.storage.admin.reading import read_file, stream_file
from apps.storage.models import DatasetImage
from apps.storage.selectors import datasets_of
from trainer.store import ObjectMissingError, StoreError

# A picture is shown as what its name says, and only where that is a picture; a browser may not think of it otherwise.
_TYPES = {
    ".bmp": "image/bmp",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
}
_FOR_EVER = "private, immutable, max-age=31536000"  # a version is frozen, and ids are not used twice


def image_or_404(request: HttpRequest, version_id: int, image_id: int) -> DatasetImage:
    """The picture, where the person may see its dataset. To everybody else there is none."""
    datasets = datasets_of(person_of(request)).order_by()
    seen = DatasetImage.objects.filter(version__complete=True, version__dataset__in=datasets)
    rows = seen.select_related("version__dataset__project", "file__shard", "label__shard")
    return get_object_or_404(rows, pk=image_id, version_id=version_id)


def small(request: HttpRequest, version_id: int, image_id: int, side: int) -> HttpResponseBase:
    """The picture as an upright JPEG of at most `side` pixels, or a picture that says why there is none."""
    image = image_or_404(request, version_id, image_id)
    if side not in thumbnails.SIDES:
        raise Http404
    etag = f'"{image.file.sha256}-{side}"'
    unchanged = get_conditional_response(request, etag=etag)
    if unchanged is not None:
        return unchanged
    try:
        data = thumbnails.kept(image.file.sha256, side) or _made(image, side)
    except thumbnails.UnreadablePictureError as error:
        return _cached(_placeholder(str(error)), etag)
    except StoreError:
        response = _placeholder(_("The store does not deliver it"))
        response["Cache-Control"] = "no-store"
        return response
    return _cached(HttpResponse(data, content_type="image/jpeg"), etag)


def original(request: HttpRequest, version_id: int, image_id: int) -> HttpResponseBase:
    """The picture's file as it was imported."""
    image = image_or_404(request, version_id, image_id)
    etag = f'"{image.file.sha256}"'
    unchanged = get_conditional_response(request, etag=etag)
    if unchanged is not None:
        return unchanged
    name = PurePosixPath(image.path)
    kind = _TYPES.get(name.suffix.lower())
    pieces = stream_file(image.file)
    try:
        first = next(pieces, b"")  # a store that cannot deliver says so before the answer begins
    except ObjectMissingError as error:
        raise Http404(_("The store no longer has %(name)s.") % {"name": image.path}) from error
    except StoreError as error:
        return HttpResponse(str(error), status=HTTPStatus.BAD_GATEWAY, content_type="text/plain; charset=utf-8")
    response = StreamingHttpResponse(chain([first], pieces), content_type=kind or "application/octet-stream")
    response["Content-Disposition"] = content_disposition_header(kind is None, name.name) or ""
    response["Content-Length"] = str(image.file.size)
    return _cached(response, etag)


def _made(image: DatasetImage, side: int) -> bytes:
    thumbnails.refuse_large(image.file.size)
    data = thumbnails.scaled(read_file(image.file), side)
    thumbnails.keep(image.file.sha256, side, data)
    return data


def _cached(response: HttpResponseBase, etag: str) -> HttpResponseBase:
    response["ETag"] = etag
    response["Cache-Control"] = _FOR_EVER
    response["X-Content-Type-Options"] = "nosniff"
    response["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    return response


def _placeholder(why: str) -> HttpResponse:
    drawing = format_html(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 320 240" width="320" height="240">'
        '<rect width="320" height="240" fill="#e5e7eb"/><path d="M140 70h40v40h-40zM140 70l40 40M180 70l-40 40" '
        'fill="none" stroke="#6b7280" stroke-width="3"/><text x="160" y="150" text-anchor="middle" fill="#374151" '
        'font-family="sans-serif" font-size="17">{}</text></svg>',
        why,
    )
    return HttpResponse(drawing, content_type="image/svg+xml")
