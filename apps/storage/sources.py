"""Fetching what `importdataset` is told to import: a path, an address of the web, or one of the object store's service.

A download that breaks off goes on where it stopped, in this run or in the next one: its bytes and the server's name
for them (entity tag or date) are kept until the import is done with them.
"""

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx
from django.conf import settings
from django.utils.translation import gettext as _

from apps.storage.archives import DEFAULT
from apps.storage.errors import SourceError, StorageError
from apps.storage.models import Phase
from apps.storage.progress import Tell
from trainer.contract.variables import store_settings
from trainer.dataset.errors import DatasetError
from trainer.store import CHUNK, ObjectStore, S3StoreSettings, StoredObject, check_key, open_store

MAX_BYTES = DEFAULT.total
_REDIRECTS, _TRIES = 5, 6
_TRIES_TO_REACH = 3  # a server of which nothing has come yet: more likely a wrong address than a bad moment
_TIMEOUT = httpx.Timeout(30, connect=10)
_ILL_FOR_NOW = frozenset({429, 500, 502, 503, 504})


class _RefusedError(SourceError):
    """Trying again ends the same way, so that there is nothing to keep for it."""


class _BrokenOffError(Exception):
    """The download stopped in a way that may pass."""


def shown(source: str) -> str:
    """The source as it may be recorded: without a user, a password, or the signature of a link."""
    parts = urlsplit(source)
    if parts.scheme not in ("http", "https"):
        return source[:1000]
    host = parts.hostname or ""
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))[:1000]


def default_name(source: str) -> str:
    """What a dataset from there is called where nobody names it: the last part, without an archive's suffixes."""
    parts = urlsplit(source)
    if parts.scheme in ("http", "https", "s3"):
        name = PurePosixPath(unquote(parts.path)).name or parts.netloc
    else:
        name = Path(source).expanduser().resolve().name
    lower = name.lower()
    for suffix in (".tar.gz", ".tar.zst", ".tar.bz2", ".tar.xz", ".tgz", ".tzst", ".zip", ".tar"):
        if lower.endswith(suffix):
            return name[: -len(suffix)]
    return name


@contextmanager
def fetched(source: str, scratch: Path, tell: Tell) -> Iterator[Path]:
    """A folder or archive on this machine's disk. A download is kept where the work inside is interrupted.

    Raises:
        SourceError: there is none, or it cannot be had; says why.
        StoreError, OSError.
    """
    scheme = urlsplit(source).scheme if "://" in source else ""
    if scheme in ("http", "https"):
        with _downloaded(source, tell) as path:
            yield path
    elif scheme == "s3":
        yield _from_store(source, scratch, tell)
    elif scheme:
        raise SourceError(
            _("%(source)s cannot be imported: give a path, or an address that begins with http, https or s3.")
            % {"source": shown(source)}
        )
    else:
        path = Path(source).expanduser().resolve()
        if not path.exists():
            raise SourceError(_("%(path)s is no folder, archive or address.") % {"path": path})
        yield path


# --- the web --------------------------------------------------------------------------------------------------------


def downloads_folder() -> Path:
    return Path(settings.DATA_DIR / "imports" / "downloads")


@contextmanager
def _downloaded(url: str, tell: Tell) -> Iterator[Path]:
    folder = downloads_folder() / hashlib.sha256(url.encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    name = PurePosixPath(unquote(urlsplit(url).path)).name[-100:] or "download"
    path, about = folder / name.replace("\0", ""), folder / ".about.json"
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            said = _("%(url)s is being imported already, by another command.")
            raise SourceError(said % {"url": shown(url)}) from error
        try:
            _download(url, file, about, tell)
        except SourceError as error:
            if isinstance(error, _RefusedError) or not file.tell():
                shutil.rmtree(folder)
            raise
        try:
            yield path
        except (StorageError, DatasetError):
            shutil.rmtree(folder)  # it would be refused again
            raise
        # Not after an interruption or a full disk: the next run goes on from here.
        shutil.rmtree(folder)


def _download(url: str, file: BinaryIO, about: Path, tell: Tell) -> None:
    """Have all of `url` in `file`, beginning after what is in it already."""
    tell(Phase.DOWNLOADING, file.seek(0, 2), 0)  # said before the server is: it may let wait
    limits = {"timeout": _TIMEOUT, "follow_redirects": True, "max_redirects": _REDIRECTS}
    with httpx.Client(headers={"Accept-Encoding": "identity"}, **limits) as client:  # type: ignore[arg-type]
        for tried in count(1):
            try:
                _go_on(client, url, file, about, tell)
                return
            except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.InvalidURL) as error:
                said = _("%(url)s cannot be fetched: %(why)s. Check the address.")
                raise _RefusedError(said % {"url": shown(url), "why": error}) from error
            except (httpx.HTTPError, _BrokenOffError) as error:
                out_of_reach = isinstance(error, httpx.ConnectError) and not file.tell()
                if tried >= (_TRIES_TO_REACH if out_of_reach else _TRIES):
                    said = _("%(url)s cannot be fetched: %(why)s. Check the address; run the command again to go on.")
                    raise SourceError(said % {"url": shown(url), "why": error or type(error).__name__}) from error
                time.sleep(2.0**tried / 8)


def _go_on(client: httpx.Client, url: str, file: BinaryIO, about: Path, tell: Tell) -> None:
    validator: str | None = json.loads(about.read_text())["validator"] if about.exists() else None
    done = file.seek(0, 2)
    if not validator:
        done = _start_over(file)
    headers = {"Range": f"bytes={done}-", "If-Range": validator} if done and validator else {}
    with client.stream("GET", url, headers=headers) as answer:
        if done and answer.status_code == 416:  # nothing is missing, or what we have is from something else
            if answer.headers.get("Content-Range") == f"bytes */{done}":
                return
            _start_over(file)
            raise _BrokenOffError(_("the file has changed"))
        if answer.status_code in _ILL_FOR_NOW:
            raise _BrokenOffError(f"{answer.status_code} {answer.reason_phrase}")
        if answer.status_code not in (200, 206):
            said = _("%(url)s cannot be fetched: the server answered %(status)s %(reason)s. Check the address.")
            what = {"url": shown(url), "status": answer.status_code, "reason": answer.reason_phrase}
            raise _RefusedError(said % what)
        if answer.status_code == 200:
            done = _start_over(file)
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            _start_over(file)
            raise _BrokenOffError(_("the server sent another part than was asked for"))
        about.write_text(json.dumps({"validator": _validator(answer)}))
        _receive(answer, file, done, tell, url)


def _receive(answer: httpx.Response, file: BinaryIO, done: int, tell: Tell, url: str) -> None:
    length = answer.headers.get("Content-Length", "")
    total = done + int(length) if length.isdigit() else 0
    tell(Phase.DOWNLOADING, done, total)
    for chunk in answer.iter_raw():  # as it arrives: what a fixed size waits for is lost when it breaks off
        file.write(chunk)
        done += len(chunk)
        if max(done, total) > MAX_BYTES:
            said = _("%(url)s is larger than %(most)s GiB, the most that is imported. Split the dataset.")
            raise _RefusedError(said % {"url": shown(url), "most": MAX_BYTES >> 30})
        tell(Phase.DOWNLOADING, done, total)
    file.flush()
    if total and done != total:
        said = _("the connection was closed after %(done)s of %(total)s bytes")
        raise _BrokenOffError(said % {"done": done, "total": total})


def _validator(answer: httpx.Response) -> str | None:
    """What makes sure that the rest belongs to the same file: a strong entity tag, or else a date."""
    tag: str = answer.headers.get("ETag", "")
    date: str | None = answer.headers.get("Last-Modified")
    return tag if tag.startswith('"') else date


def _start_over(file: BinaryIO) -> int:
    file.truncate(0)
    return 0


# --- the object store's service ---------------------------------------------------------------------------------------


def _from_store(source: str, scratch: Path, tell: Tell) -> Path:
    """An object, or all objects below a key, from any bucket that the store's credentials may read."""
    parts = urlsplit(source)
    bucket, key = parts.netloc, parts.path.strip("/")
    configured = store_settings(settings.STORE_ENVIRONMENT)
    if not isinstance(configured, S3StoreSettings):
        raise SourceError(
            _(
                "%(source)s cannot be read: this platform stores in a folder. Set STORAGE_TYPE and the credentials of "
                "the S3 service, or download it and give its path."
            )
            % {"source": source}
        )
    if not bucket or not key:
        raise SourceError(_("%(source)s is no address of the form s3://bucket/key.") % {"source": source})
    store, target = open_store(replace(configured, bucket=bucket)), scratch / "fetched"
    one = store.stat(key)
    # Consoles mark a folder by an empty object whose key ends with a slash.
    found = [one] if one else [stored for stored in store.list(key) if not stored.key.endswith("/")]
    if not found:
        raise SourceError(_("There is nothing at %(source)s.") % {"source": source})
    above = PurePosixPath(key).parent if one else PurePosixPath(key)
    _copy(store, found, above, target, tell)
    return target / PurePosixPath(key).name if one else target


def _copy(store: ObjectStore, found: list[StoredObject], above: PurePosixPath, target: Path, tell: Tell) -> None:
    total, done = sum(stored.size for stored in found), 0
    if total > MAX_BYTES:
        said = _("There are more than %(most)s GiB, the most that is imported. Split the dataset.")
        raise SourceError(said % {"most": MAX_BYTES >> 30})
    for stored in found:
        path = target / PurePosixPath(check_key(stored.key)).relative_to(above)
        path.parent.mkdir(parents=True, exist_ok=True)
        with store.open(stored.key) as source, path.open("xb") as copy:
            while chunk := source.read(CHUNK):
                copy.write(chunk)
                done += len(chunk)
                tell(Phase.DOWNLOADING, done, total)
