"""Handing out stored files, for the admin and the API alike."""

from collections.abc import Iterator
from contextlib import ExitStack
from mimetypes import guess_type
from pathlib import PurePosixPath
from typing import BinaryIO

from django.http import HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.http import content_disposition_header

from apps.jobs.models import Artifact
from apps.storage.stores import get_store
from trainer.store import CHUNK, ObjectMissingError, ObjectStore

LINK_SECONDS = 300
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_ANY = "application/octet-stream"


def is_picture(artifact: Artifact) -> bool:
    return artifact.name.lower().endswith(_PICTURES)


def download(artifact: Artifact, filename: str = "", *, inline: bool = False) -> HttpResponseBase:
    """A redirect to the store where it has a server, else the file itself, saved as `filename`.

    With `inline` a picture is shown in the browser; nothing else ever is, since a trainer may have written anything.

    Raises:
        StoreError: before anything was sent.
    """
    store, filename = get_store(), filename or PurePosixPath(artifact.name).name
    shown = inline and is_picture(artifact)
    content_type = (guess_type(artifact.name)[0] if shown else None) or _ANY
    link = store.presign_get(artifact.key, LINK_SECONDS, filename, inline=shown, content_type=content_type)
    if link:
        response: HttpResponseBase = HttpResponseRedirect(link)
    else:
        response = _streamed(store, artifact.key, content_type)
        response["Content-Disposition"] = content_disposition_header(not shown, filename) or "attachment"
    # A link expires, and a later checkpoint may take the file's place; plots are drawn once.
    response["Cache-Control"] = "private, max-age=3600" if shown and not link else "no-store"
    return response


def _streamed(store: ObjectStore, key: str, content_type: str) -> StreamingHttpResponse:
    stored = store.stat(key)
    if stored is None:
        raise ObjectMissingError(f"{key} is no longer in the store.")
    opened = ExitStack()
    # Not beyond the length announced, should the file be replaced by a longer one meanwhile.
    source = opened.enter_context(store.open(key, 0, stored.size))
    response = StreamingHttpResponse(_chunks(source, opened), content_type=content_type)
    response["Content-Length"] = str(stored.size)
    return response


def _chunks(source: BinaryIO, opened: ExitStack) -> Iterator[bytes]:
    with opened:
        while chunk := source.read(CHUNK):
            yield chunk
