"""Handing out stored files."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import BinaryIO

from django.http import HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.http import content_disposition_header

from apps.jobs.models import Artifact
from apps.storage.stores import get_store
from trainer.store import CHUNK, ObjectMissingError, ObjectStore

LINK_SECONDS = 300


def download(artifact: Artifact) -> HttpResponseBase:
    """A redirect to the store where it has a server, else the file itself.

    Raises:
        StoreError: before anything was sent.
    """
    store, filename = get_store(), PurePosixPath(artifact.name).name
    link = store.presign_get(artifact.key, LINK_SECONDS, filename)
    response = HttpResponseRedirect(link) if link else _streamed(store, artifact.key, filename)
    response["Cache-Control"] = "no-store"  # the link expires, and a later checkpoint may take the file's place
    return response


def _streamed(store: ObjectStore, key: str, filename: str) -> StreamingHttpResponse:
    stored = store.stat(key)
    if stored is None:
        raise ObjectMissingError(f"{filename} is no longer in the store.")
    opened = ExitStack()
    # Not beyond the length announced, should the file be replaced by a longer one meanwhile.
    source = opened.enter_context(store.open(key, 0, stored.size))
    response = StreamingHttpResponse(_chunks(source, opened), content_type="application/octet-stream")
    response["Content-Length"] = str(stored.size)
    response["Content-Disposition"] = content_disposition_header(True, filename) or "attachment"
    return response


def _chunks(source: BinaryIO, opened: ExitStack) -> Iterator[bytes]:
    with opened:
        while chunk := source.read(CHUNK):
            yield chunk
