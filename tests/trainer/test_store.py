"""The object store: one suite for a folder and for a real S3 service, then what only one of them has."""

import errno
import hashlib
import io
import pickle
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from servers.s3 import S3Service
from trainer.store import (
    BucketMissingError,
    ChecksumMismatchError,
    InvalidKeyError,
    LocalStoreSettings,
    ObjectMissingError,
    ObjectStore,
    S3StoreSettings,
    StoreDeniedError,
    StoredObject,
    StoreError,
    StoreFullError,
    StoreSettings,
    StoreUnreachableError,
    check_key,
    open_store,
)
from trainer.store_s3 import S3Store

DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()
MIB = 1 << 20


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return sorted(stored.key for stored in store.list(prefix))


class TestAnyStore:
    def test_bytes_come_back_as_they_were_put(self, store: ObjectStore) -> None:
        assert store.put_bytes("runs/1/log.txt", DATA, "text/plain") == StoredObject(
            "runs/1/log.txt", len(DATA), SHA256
        )
        with store.open("runs/1/log.txt") as source:
            assert source.read() == DATA

    def test_a_file_makes_the_round_trip(self, store: ObjectStore, tmp_path: Path) -> None:
        original, copy = tmp_path / "best.pt", tmp_path / "new" / "folder" / "best.pt"
        original.write_bytes(DATA)
        assert store.put_file("runs/1/best.pt", original) == StoredObject("runs/1/best.pt", len(DATA), SHA256)
        assert store.get_file("runs/1/best.pt", copy) == StoredObject("runs/1/best.pt", len(DATA), SHA256)
        assert copy.read_bytes() == DATA
        assert [path.name for path in copy.parent.iterdir()] == ["best.pt"]

    def test_an_empty_object_is_an_object(self, store: ObjectStore, tmp_path: Path) -> None:
        store.put_bytes("empty", b"")
        assert store.get_file("empty", tmp_path / "empty").size == 0
        with store.open("empty", start=0, end=10) as source:
            assert source.read() == b""

    def test_keys_may_hold_spaces_and_letters_of_any_script(self, store: ObjectStore) -> None:
        key = "데이터/run 1/größe+%41&?#.txt"
        store.put_bytes(key, DATA)
        assert keys(store) == [key]
        assert store.stat(key) is not None

    def test_putting_again_replaces(self, store: ObjectStore) -> None:
        store.put_bytes("a", b"old and longer")
        store.put_bytes("a", b"new")
        with store.open("a") as source:
            assert source.read() == b"new"

    @pytest.mark.parametrize(
        ("start", "end"), [(0, None), (0, 1), (0, 10), (5, 5), (5, 9), (100, None), (9_999, 20_000)]
    )
    def test_a_range_reads_as_a_slice_does(self, store: ObjectStore, start: int, end: int | None) -> None:
        store.put_bytes("a", DATA)
        with store.open("a", start, end) as source:
            assert source.read() == DATA[start:end]

    def test_a_range_beyond_the_end_is_empty(self, store: ObjectStore) -> None:
        store.put_bytes("a", DATA)
        with store.open("a", len(DATA)) as source:
            assert source.read() == b""
        with store.open("a", len(DATA) + 5, len(DATA) + 9) as source:
            assert source.read() == b""

    @pytest.mark.parametrize(("start", "end"), [(-1, None), (5, 4)])
    def test_a_range_that_is_none_is_refused(self, store: ObjectStore, start: int, end: int | None) -> None:
        with pytest.raises(ValueError, match="range"), store.open("a", start, end):
            pass

    def test_stat_knows_the_size_and_that_nothing_is_there(self, store: ObjectStore) -> None:
        store.put_bytes("runs/1/a", DATA)
        stored = store.stat("runs/1/a")
        assert stored is not None
        assert (stored.key, stored.size) == ("runs/1/a", len(DATA))
        assert store.stat("runs/1/b") is None
        assert store.stat("runs/1") is None

    def test_listing_ends_a_prefix_at_a_slash(self, store: ObjectStore) -> None:
        for key in ("runs/1/a", "runs/1/b/c", "runs/10/a", "other"):
            store.put_bytes(key, DATA)
        assert keys(store, "runs/1") == keys(store, "runs/1/") == ["runs/1/a", "runs/1/b/c"]
        assert keys(store) == ["other", "runs/1/a", "runs/1/b/c", "runs/10/a"]
        assert {stored.size for stored in store.list("runs")} == {len(DATA)}
        assert keys(store, "nothing") == keys(store, "runs/1/a") == []

    def test_deleting_is_done_once_and_harmless_twice(self, store: ObjectStore) -> None:
        store.put_bytes("runs/1/a", DATA)
        for _ in range(2):
            store.delete("runs/1/a")
            assert store.stat("runs/1/a") is None
        store.delete("runs/1/a/below")

    def test_deleting_a_prefix_spares_its_neighbours(self, store: ObjectStore) -> None:
        for key in ("runs/1/a", "runs/1/b/c", "runs/10/a"):
            store.put_bytes(key, DATA)
        assert store.delete_prefix("runs/1") == 2
        assert store.delete_prefix("runs/1") == 0
        assert keys(store) == ["runs/10/a"]

    def test_the_whole_store_is_never_deleted(self, store: ObjectStore) -> None:
        store.put_bytes("a", DATA)
        for prefix in ("", "/", "//"):
            with pytest.raises(InvalidKeyError):
                store.delete_prefix(prefix)
        assert keys(store) == ["a"]

    def test_a_missing_object_is_named(self, store: ObjectStore, tmp_path: Path) -> None:
        with pytest.raises(ObjectMissingError, match=r"runs/1/gone\.pt"):
            store.get_file("runs/1/gone.pt", tmp_path / "gone.pt")
        with pytest.raises(ObjectMissingError), store.open("runs/1/gone.pt"):
            pass
        assert list(tmp_path.glob("*gone*")) == []

    def test_every_method_refuses_a_bad_key(self, store: ObjectStore, tmp_path: Path) -> None:
        bad = "../secret"
        file = tmp_path / "file"
        file.write_bytes(DATA)
        calls = (
            lambda: store.uri(bad),
            lambda: store.put_file(bad, file),
            lambda: store.put_bytes(bad, DATA),
            lambda: store.get_file(bad, tmp_path / "copy"),
            lambda: store.open(bad).__enter__(),
            lambda: store.stat(bad),
            lambda: list(store.list(bad)),
            lambda: store.delete(bad),
            lambda: store.delete_prefix(bad),
            lambda: store.presign_get(bad, 60),
        )
        for call in calls:
            with pytest.raises(InvalidKeyError):
                call()

    def test_a_source_that_is_missing_is_the_callers_own_error(self, store: ObjectStore, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            store.put_file("a", tmp_path / "nowhere")
        assert store.stat("a") is None

    def test_threads_share_a_store(self, store: ObjectStore, tmp_path: Path) -> None:
        def round_trip(number: int) -> bytes:
            store.put_bytes(f"runs/{number}/a", str(number).encode() * 1000)
            store.get_file(f"runs/{number}/a", tmp_path / str(number))
            return (tmp_path / str(number)).read_bytes()

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(round_trip, range(24))) == [str(n).encode() * 1000 for n in range(24)]

    def test_a_large_object_never_fills_the_memory(self, store_settings: StoreSettings, tmp_path: Path) -> None:
        original, copy = tmp_path / "large", tmp_path / "copy"
        size = 160 * MIB  # S3 gets and sends it in pieces
        with original.open("wb") as file:
            file.truncate(size)
            for at in (0, 31, 32, 63, 150):
                file.seek(at * MIB + at)
                file.write(DATA)
        done = subprocess.run(
            [sys.executable, "-c", ROUND_TRIP, str(original), str(copy)],
            input=pickle.dumps(store_settings),
            cwd=Path(__file__).parents[2],
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert digest(copy) == digest(original)
        assert int(done.stdout) < 150 * MIB


# Peak memory of a whole process is what counts: threads and the client's own buffers included. Not getrusage's, which
# a process takes over from the one that started it.
ROUND_TRIP = """
import pathlib, pickle, sys
from trainer.store import open_store
store = open_store(pickle.load(sys.stdin.buffer))
original, copy = map(pathlib.Path, sys.argv[1:])
assert store.put_file("large", original).sha256 == store.get_file("large", copy).sha256
store.delete("large")
status = pathlib.Path("/proc/self/status").read_text()
print(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024)
"""


class TestKeys:
    @pytest.mark.parametrize(
        "key",
        [
            "",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "a/./b",
            "a\\b",
            "a\nb",
            "a\x00b",
            "a\ud800b",
            "a/" * 600 + "a",
            "k" * 256,
            ".incoming/a",
        ],
    )
    def test_a_key_that_means_different_things_is_refused(self, key: str) -> None:
        with pytest.raises(InvalidKeyError, match="Choose another key"):
            check_key(key)

    @pytest.mark.parametrize("key", ["a", "a/b.c/d", "a/..b", "a/.incoming", "é" * 100, " a"])
    def test_other_keys_pass_unchanged(self, key: str) -> None:
        assert check_key(key) == key


class TestLocalStore:
    def test_an_object_is_a_plain_file_and_its_uri_leads_there(self, tmp_path: Path) -> None:
        store = open_store(LocalStoreSettings(tmp_path / "a store"))
        store.put_bytes("runs/1/a", DATA)
        path = tmp_path / "a store" / "runs" / "1" / "a"
        assert path.read_bytes() == DATA
        assert store.uri("runs/1/a") == path.as_uri()

    def test_there_is_no_link_to_hand_out(self, tmp_path: Path) -> None:
        assert open_store(LocalStoreSettings(tmp_path)).presign_get("a", 60) is None

    def test_a_put_that_fails_keeps_the_old_object_and_no_rest(self, tmp_path: Path) -> None:
        store = open_store(LocalStoreSettings(tmp_path / "store"))
        store.put_bytes("a/b", DATA)
        with pytest.raises(StoreError, match="LOCAL_STORAGE_ROOT"):
            store.put_bytes("a", b"a folder is in the way")
        with pytest.raises(StoreError):
            store.put_bytes("a/b/c", b"a file is in the way")
        assert keys(store) == ["a/b"]
        assert list((tmp_path / "store" / ".incoming").iterdir()) == []

    @pytest.mark.parametrize(
        ("number", "kind"),
        [
            (errno.ENOSPC, StoreFullError),
            (errno.EDQUOT, StoreFullError),
            (errno.EACCES, StoreDeniedError),
            (errno.EROFS, StoreDeniedError),
            (errno.EIO, StoreError),
        ],
    )
    def test_the_errors_of_the_disk_are_told_apart(self, tmp_path: Path, number: int, kind: type[StoreError]) -> None:
        store = open_store(LocalStoreSettings(tmp_path))
        with pytest.raises(kind, match="LOCAL_STORAGE_ROOT"), store._translated("write", "a"):
            raise OSError(number, "as the system says it")

    def test_opening_it_touches_nothing(self, tmp_path: Path) -> None:
        store = open_store(LocalStoreSettings(tmp_path / "store"))
        assert keys(store) == []
        assert store.stat("a") is None
        assert not (tmp_path / "store").exists()


class TestS3Store:
    def test_the_digest_travels_with_the_object(self, s3_settings: S3StoreSettings) -> None:
        open_store(s3_settings).put_bytes("a", DATA)
        stored = open_store(s3_settings).stat("a")
        assert stored == StoredObject("a", len(DATA), SHA256)

    def test_the_uri_names_the_bucket(self, s3_settings: S3StoreSettings) -> None:
        assert open_store(s3_settings).uri("runs/a") == f"s3://{s3_settings.bucket}/runs/a"

    def test_damaged_bytes_are_noticed_and_never_take_the_files_place(
        self, s3_service: S3Service, s3_settings: S3StoreSettings, tmp_path: Path
    ) -> None:
        s3_service.client().put_object(
            Bucket=s3_settings.bucket, Key="a", Body=DATA[:-1] + b"x", Metadata={"sha256": SHA256}
        )
        path = tmp_path / "a"
        path.write_text("what was there before")
        with pytest.raises(ChecksumMismatchError, match=SHA256):
            open_store(s3_settings).get_file("a", path)
        assert path.read_text() == "what was there before"
        assert [each.name for each in tmp_path.iterdir()] == ["a"]

    def test_an_object_from_elsewhere_has_no_digest_and_is_fetched_all_the_same(
        self, s3_service: S3Service, s3_settings: S3StoreSettings, tmp_path: Path
    ) -> None:
        s3_service.client().put_object(Bucket=s3_settings.bucket, Key="a", Body=DATA)
        store = open_store(s3_settings)
        assert store.stat("a") == StoredObject("a", len(DATA), None)
        assert store.get_file("a", tmp_path / "a").sha256 == SHA256

    def test_a_listing_goes_on_after_the_first_page(self, s3_settings: S3StoreSettings) -> None:
        store = open_store(s3_settings)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: store.put_bytes(f"many/{number:04d}", b""), range(120)))
        assert len(keys(store, "many")) == 120

    def test_a_link_downloads_without_keys_under_the_wanted_name(self, s3_settings: S3StoreSettings) -> None:
        store = open_store(s3_settings)
        store.put_bytes("runs/1/a", DATA)
        link = store.presign_get("runs/1/a", 60, filename='모델 "best".pt')
        assert link is not None
        with urllib.request.urlopen(link) as answer:
            assert answer.read() == DATA
            assert "best%22.pt" in answer.headers["Content-Disposition"]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(link.replace("runs/1/a", "runs/1/b"))

    def test_a_link_may_show_the_object_in_the_browser(self, s3_settings: S3StoreSettings) -> None:
        store = open_store(s3_settings)
        store.put_bytes("a", DATA)
        link = store.presign_get("a", 60, filename="a.png", inline=True, content_type="image/png")
        assert link is not None
        with urllib.request.urlopen(link) as answer:
            assert answer.headers["Content-Disposition"].startswith("inline;")
            assert answer.headers["Content-Type"] == "image/png"

    def test_an_expired_link_is_refused(self, s3_settings: S3StoreSettings) -> None:
        store = open_store(s3_settings)
        store.put_bytes("a", DATA)
        links = store.presign_get("a", 1), store.presign_put("a", 1)
        time.sleep(2.5)
        for link, data in zip(links, (None, b"new"), strict=True):
            assert link is not None
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(urllib.request.Request(link, data=data, method="PUT" if data else "GET"))

    def test_a_large_file_that_changes_meanwhile_is_not_stored(
        self, s3_settings: S3StoreSettings, tmp_path: Path
    ) -> None:
        class Growing(S3Store):
            def _send(self, key: str, upload_id: str, source: BinaryIO, size: int) -> None:
                super()._send(key, upload_id, source, size)
                with (tmp_path / "large").open("ab") as file:
                    file.write(b"more")

        with (tmp_path / "large").open("wb") as file:
            file.truncate(40 * MIB)
        store = Growing(s3_settings)
        with pytest.raises(StoreError, match="changed while it was uploaded"):
            store.put_file("a", tmp_path / "large")
        assert not store.exists("a")
        assert list(store.list_uploads()) == []

    def test_a_large_object_that_was_damaged_is_noticed(
        self, s3_service: S3Service, s3_settings: S3StoreSettings, tmp_path: Path
    ) -> None:
        s3_service.client().put_object(
            Bucket=s3_settings.bucket, Key="a", Body=bytes(40 * MIB), Metadata={"sha256": SHA256}
        )
        with pytest.raises(ChecksumMismatchError, match=SHA256):
            open_store(s3_settings).get_file("a", tmp_path / "a")
        assert list(tmp_path.iterdir()) == []

    def test_a_part_that_changes_on_its_way_is_refused_by_the_service(self, s3_settings: S3StoreSettings) -> None:
        store = S3Store(s3_settings)
        upload = store.start_upload("a")

        def damage(request: Any, **more: Any) -> None:
            request.body = io.BytesIO(b"x" + request.body.read()[1:])

        # After the request was signed, as a bad cable or proxy would do it.
        store._client().meta.events.register("before-send.s3.UploadPart", damage)
        with pytest.raises(StoreError, match="part 1 of a"):
            store._send_part("a", upload, 1, DATA)
        assert list(store.list_parts("a", upload)) == []
        store.abort_upload("a", upload)

    def test_a_missing_bucket_is_told_from_a_missing_object(self, s3_settings: S3StoreSettings, tmp_path: Path) -> None:
        store = open_store(replace(s3_settings, bucket="no-such-bucket"))
        large = tmp_path / "large"
        large.write_bytes(DATA)
        calls = (
            lambda: store.put_bytes("a", DATA),
            lambda: store.put_file("a", large),
            lambda: store.get_file("a", tmp_path / "a"),
            lambda: store.stat("a"),
            lambda: list(store.list()),
        )
        for call in calls:
            with pytest.raises(BucketMissingError, match="MINIO_BUCKET"):
                call()

    @pytest.mark.parametrize(("kind", "names"), [("minio", "MINIO_SECRET_KEY"), ("r2", "R2_SECRET_ACCESS_KEY")])
    def test_a_wrong_secret_is_named_by_its_variable_and_never_shown(
        self, s3_settings: S3StoreSettings, tmp_path: Path, kind, names: str
    ) -> None:
        settings = replace(s3_settings, type=kind, secret_key="a-wrong-secret")
        store = open_store(settings)
        file = tmp_path / "file"
        file.write_bytes(DATA)
        for call in (
            lambda: store.put_bytes("a", DATA),
            lambda: store.put_file("a", file),
            lambda: store.stat("a"),
        ):
            with pytest.raises(StoreDeniedError, match=names) as caught:
                call()
            assert "a-wrong-secret" not in str(caught.value)
        assert "a-wrong-secret" not in repr(settings)

    def test_a_service_that_is_down_is_worth_trying_again(self) -> None:
        store = open_store(S3StoreSettings("r2", "http://127.0.0.1:1", "key", "secret", "bucket"))
        with pytest.raises(StoreUnreachableError, match="R2_ENDPOINT") as caught:
            store.stat("a")
        assert caught.value.retryable

    def test_an_endpoint_that_is_no_address_is_named(self) -> None:
        store = open_store(S3StoreSettings("minio", "not an address", "key", "secret", "bucket"))
        with pytest.raises(StoreError, match="MINIO_ENDPOINT"):
            store.stat("a")

    def test_a_full_service_is_told(self) -> None:
        with peer(FullService) as settings, pytest.raises(StoreFullError, match="quota"):
            open_store(settings).put_bytes("a", DATA)

    def test_a_download_goes_on_where_the_connection_broke(self, tmp_path: Path) -> None:
        with peer(BreakingService) as settings:
            fetched = open_store(settings).get_file("a", tmp_path / "a")
        assert fetched.sha256 == hashlib.sha256(BreakingService.body).hexdigest()
        assert len(BreakingService.ranges) > 2

    def test_a_download_never_mixes_two_versions_of_an_object(self, tmp_path: Path) -> None:
        with peer(ChangingService) as settings, pytest.raises(StoreError, match="replaced"):
            open_store(settings).get_file("a", tmp_path / "a")
        assert list(tmp_path.iterdir()) == []

    def test_a_large_download_goes_on_in_every_piece(self, tmp_path: Path) -> None:
        with peer(LargeBreakingService) as settings:
            fetched = open_store(settings).get_file("a", tmp_path / "a")
        assert fetched.size == len(LargeBreakingService.body)
        assert digest(tmp_path / "a") == hashlib.sha256(LargeBreakingService.body).hexdigest()

    def test_a_disk_without_room_is_told_before_the_download(self, tmp_path: Path) -> None:
        with peer(HugeService) as settings, pytest.raises(OSError, match="No space left"):
            open_store(settings).get_file("a", tmp_path / "a")
        assert list(tmp_path.iterdir()) == []

    def test_a_download_that_never_moves_ends(self, tmp_path: Path) -> None:
        with peer(SilentService) as settings, pytest.raises(StoreUnreachableError):
            open_store(settings).get_file("a", tmp_path / "a")


class BreakingService(BaseHTTPRequestHandler):
    """Serves one object and hangs up after each MiB of it."""

    body = bytes(range(256)) * 4 * 2560
    piece = MIB
    tags = False
    ranges: list[str | None] = []
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        type(self).ranges = [*self.ranges, wanted]
        first, last = (wanted or "bytes=0-").removeprefix("bytes=").split("-")
        start, end = int(first), min(int(last or len(self.body)), len(self.body) - 1)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(self.body)}")
        self.send_header("Content-Length", str(end + 1 - start))
        self.send_header("ETag", f'"{len(self.ranges) if self.tags else "same"}"')
        self.end_headers()
        self.wfile.write(self.body[start : min(start + self.piece, end + 1)])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        pass


class LargeBreakingService(BreakingService):
    """Hangs up after each 20 MiB, within the pieces that are fetched at once."""

    body = bytes(range(256)) * 4 * 1024 * 70
    piece = 20 * MIB


class HugeService(BreakingService):
    """Says that its object is larger than any disk."""

    def send_header(self, keyword: str, value: str) -> None:
        if keyword == "Content-Range":
            value = f"{value.partition('/')[0]}/{1 << 50}"
        super().send_header(keyword, value)


class ChangingService(BreakingService):
    """A service where the object is replaced in the middle of a download."""

    tags = True


class SilentService(BreakingService):
    """Promises an object and never sends a byte of it."""

    piece = 0


class FullService(BreakingService):
    """Has no room."""

    def do_PUT(self) -> None:
        body = b"<Error><Code>QuotaExceeded</Code><Message>no room</Message></Error>"
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def peer(handler: type[BaseHTTPRequestHandler]) -> Iterator[S3StoreSettings]:
    """Settings of a service that behaves as `handler` says."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield S3StoreSettings("minio", f"http://127.0.0.1:{server.server_port}", "key", "secret", "bucket")
        server.shutdown()


def test_a_local_run_loads_neither_boto3_nor_django_nor_torch(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, trainer.store, trainer.dataset\n"
        "store = trainer.store.open_store(trainer.store.LocalStoreSettings(pathlib.Path(sys.argv[1])))\n"
        "store.put_bytes('a', b'b')\n"
        "print({'boto3', 'botocore', 'django', 'torch', 'ultralytics', 'apps'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"
