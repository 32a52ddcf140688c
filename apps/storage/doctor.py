"""Whether the object store does all that platform, trainers and browsers ask of it, step by step.

`examine` makes real requests with small objects below one key of its own, and removes them again.
"""

import io
import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Literal

import httpx
from django.utils.translation import gettext as _

from trainer.store import LocalStoreSettings, ObjectStore, S3StoreSettings, StoreError, StoreSettings
from trainer.store_errors import VARIABLES

State = Literal["ok", "warning", "failed"]
DATA = b"Made by `manage.py storage doctor`, which also removes it.\n" * 4
LINK_SECONDS = 60
LARGEST_SKEW = 60  # seconds; services refuse what is 15 minutes off
SMALLEST_ROOM = 5 << 30  # bytes
_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True)
class Finding:
    """What one step found: a name, how it went, and what to know or to do."""

    step: str
    state: State
    detail: str = ""


class Trouble(Exception):  # noqa: N818 - it says how bad it is, which may be a warning
    """A step went wrong; the message says what to mend."""

    def __init__(self, message: str, state: State = "failed") -> None:
        super().__init__(message)
        self.state = state


def examine(store: ObjectStore, settings: StoreSettings, origins: Sequence[str]) -> Iterator[Finding]:
    """The findings as they are made. `origins` are where browsers load the platform's pages from."""
    probe = _Probe(store, settings, origins)
    ended = False
    for name, step, needed in probe.steps():
        finding = _tried(name, step)
        yield finding
        if needed and finding.state == "failed":
            ended = True
            break
    removed = _tried(_("remove"), probe.remove)
    if not ended or removed.state == "ok":
        yield removed


def _tried(name: str, step: Callable[[], str]) -> Finding:
    try:
        return Finding(name, "ok", step())
    except Trouble as trouble:
        return Finding(name, trouble.state, str(trouble))
    except (StoreError, OSError) as error:
        return Finding(name, "failed", str(error))


class _Probe:
    def __init__(self, store: ObjectStore, settings: StoreSettings, origins: Sequence[str]) -> None:
        self._store, self._settings, self._origins = store, settings, origins
        self._public = isinstance(settings, S3StoreSettings) and settings.public_endpoint is not None
        names = VARIABLES[settings.type] if isinstance(settings, S3StoreSettings) else ("LOCAL_STORAGE_ROOT",)
        self._place = names[0]  # the setting that says where the store is
        self._prefix = f"doctor/{uuid.uuid4().hex}"
        self._key = f"{self._prefix}/object"

    def steps(self) -> Iterator[tuple[str, Callable[[], str], bool]]:
        """Name, step, and whether nothing after it can work without it."""
        if isinstance(self._settings, S3StoreSettings):
            yield _("reach"), partial(self._reach, self._settings.endpoint), True
        yield _("write"), self._write, True
        yield _("look up"), self._look_up, True
        yield _("read"), self._read, False
        yield _("read a part"), self._read_range, False
        yield _("list"), self._list, False
        yield _("upload in parts"), self._upload, False
        if isinstance(self._settings, LocalStoreSettings):
            yield _("free space"), partial(self._room, self._settings.root), False
            return
        yield _("link to download"), self._download_link, False
        yield _("links to upload"), self._upload_links, False
        yield _("browser uploads"), self._cross_origin, False

    # --- what trainers and workers do -----------------------------------------------------------------------------

    def _reach(self, endpoint: str) -> str:
        try:
            answer = httpx.get(endpoint, timeout=_TIMEOUT)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Trouble(
                _("%(endpoint)s does not answer (%(error)s). Check %(name)s, and that the service is up.")
                % {"endpoint": endpoint, "error": error, "name": self._place}
            ) from error
        told = answer.headers.get("date")
        if told is None:
            return _("%(endpoint)s answers; it does not tell its time") % {"endpoint": endpoint}
        skew = time.time() - parsedate_to_datetime(told).timestamp()
        if abs(skew) > LARGEST_SKEW:
            raise Trouble(
                _("This machine's clock is %(seconds)d s away from the service's, which refuses 15 minutes. Set it.")
                % {"seconds": skew},
                "warning",
            )
        return _("%(endpoint)s answers, and the clocks agree") % {"endpoint": endpoint}

    def _write(self) -> str:
        self._store.put_bytes(self._key, DATA, "text/plain")
        return self._store.uri(self._key)

    def _look_up(self) -> str:
        stored = self._store.stat(self._key)
        if stored is None or stored.size != len(DATA):
            raise Trouble(
                _("What was just written is not there: %(name)s leads to something that is not an S3 service.")
                % {"name": self._place}
            )
        return _("%(size)d bytes") % {"size": stored.size}

    def _read(self) -> str:
        with tempfile.TemporaryDirectory(prefix="trainyard-doctor-") as folder:
            fetched = self._store.get_file(self._key, Path(folder) / "object")
            self._same((Path(folder) / "object").read_bytes(), DATA)
        return f"SHA-256 {fetched.sha256}"

    def _read_range(self) -> str:
        with self._store.open(self._key, 10, 20) as source:
            self._same(source.read(), DATA[10:20])
        return ""

    def _list(self) -> str:
        if [stored.key for stored in self._store.list(self._prefix)] != [self._key]:
            raise Trouble(_("The list does not show what was written. Let these keys list the bucket."))
        return ""

    def _upload(self) -> str:
        key = f"{self._prefix}/parts"
        upload = self._store.start_upload(key)
        try:
            self._store.put_part(key, upload, 1, io.BytesIO(DATA), len(DATA))
            self._store.complete_upload(key, upload)
        except StoreError:
            with suppress(StoreError):  # the first error tells more
                self._store.abort_upload(key, upload)
            raise
        with self._store.open(key) as source:
            self._same(source.read(), DATA)
        return ""

    def _room(self, root: Path) -> str:
        free = shutil.disk_usage(root).free
        told = _("%(free).1f GB free in %(folder)s") % {"free": free / 1e9, "folder": root}
        if free < SMALLEST_ROOM:
            raise Trouble(_("%(told)s. Free space, or move LOCAL_STORAGE_ROOT.") % {"told": told}, "warning")
        return told

    def remove(self) -> str:
        for pending in self._store.list_uploads(self._prefix):
            self._store.abort_upload(pending.key, pending.upload_id)
        self._store.delete_prefix(self._prefix)
        if next(self._store.list(self._prefix), None) is not None:
            raise Trouble(_("Objects are still there after they were deleted: let these keys delete."))
        return _("nothing is left behind")

    # --- what browsers do, without credentials --------------------------------------------------------------------

    def _download_link(self) -> str:
        link = self._store.presign_get(self._key, LINK_SECONDS) or ""
        answer = self._follow("GET", link)
        self._same(answer.content, DATA)
        return link.partition("?")[0]

    def _upload_links(self) -> str:
        key = f"{self._prefix}/linked"
        self._follow("PUT", self._store.presign_put(key, LINK_SECONDS) or "")
        upload = self._store.start_upload(key)
        try:
            self._follow("PUT", self._store.presign_part(key, upload, 1, LINK_SECONDS) or "")
            if [part.size for part in self._store.list_parts(key, upload)] != [len(DATA)]:
                raise Trouble(_("A part that was sent by its link did not arrive."))
        finally:
            self._store.abort_upload(key, upload)
        return ""

    def _follow(self, method: str, link: str) -> httpx.Response:
        content = DATA if method == "PUT" else None
        try:
            answer = httpx.request(method, link, content=content, timeout=_TIMEOUT)
        except httpx.HTTPError as error:
            told = _("The link cannot be followed from here (%(error)s).") % {"error": error}
            if self._public:  # perhaps it is for browsers alone
                raise Trouble(told + " " + _("Check STORAGE_PUBLIC_ENDPOINT from a browser."), "warning") from error
            raise Trouble(told) from error
        if not answer.is_success:
            name = "STORAGE_PUBLIC_ENDPOINT" if self._public else self._place
            raise Trouble(
                _(
                    "%(method)s by a link was answered with %(status)d. Check %(name)s: a proxy there must leave host "
                    "and path alone."
                )
                % {"method": method, "status": answer.status_code, "name": name}
            )
        return answer

    def _cross_origin(self) -> str:
        link = self._store.presign_put(f"{self._prefix}/linked", LINK_SECONDS) or ""
        refused = [origin for origin in self._origins if not self._allows(link, origin)]
        if refused:
            raise Trouble(
                _(
                    "Browsers on %(origins)s cannot upload: the bucket does not allow it. Large uploads need this rule "
                    "(`aws s3api put-bucket-cors`, or the service's console; MinIO: MINIO_API_CORS_ALLOW_ORIGIN):"
                )
                % {"origins": ", ".join(refused)}
                + "\n"
                + cors_rule(self._origins),
                "warning",
            )
        return ", ".join(self._origins)

    def _allows(self, link: str, origin: str) -> bool:
        headers = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
        try:
            answer = httpx.request("OPTIONS", link, headers=headers, timeout=_TIMEOUT)
        except httpx.HTTPError:
            return False
        methods = answer.headers.get("access-control-allow-methods", "")
        allowed = answer.headers.get("access-control-allow-origin") in ("*", origin)
        return answer.is_success and allowed and ("PUT" in methods or methods == "*")

    def _same(self, got: bytes, expected: bytes) -> None:
        if got != expected:
            raise Trouble(_("What came back differs from what was written. Check the service and what is before it."))


def cors_rule(origins: Sequence[str]) -> str:
    """The rule that lets pages of `origins` upload and download, in the form of S3's PutBucketCors."""
    rule = {"AllowedOrigins": list(origins), "AllowedMethods": ["GET", "PUT"], "AllowedHeaders": ["*"]}
    return json.dumps({"CORSRules": [rule]})
