"""Uploads in parts, which a browser or a client of the API drives: one suite for a folder and two S3 services."""

import io
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from trainer.store import (
    MAX_OBJECT_BYTES,
    MAX_PARTS,
    MIN_PART_BYTES,
    InvalidKeyError,
    LocalStoreSettings,
    ObjectStore,
    S3StoreSettings,
    StoreDeniedError,
    StoreError,
    UploadMissingError,
    UploadPart,
    open_store,
    part_size_for,
)

MIB = 1 << 20
FIRST, LAST = b"first" * MIB, b"and the last"  # the first one may not be below 5 MiB


def send(store: ObjectStore, key: str, upload_id: str, number: int, data: bytes) -> None:
    store.put_part(key, upload_id, number, io.BytesIO(data), len(data))


def http_put(link: str, data: bytes) -> int:
    with urllib.request.urlopen(urllib.request.Request(link, data=data, method="PUT"), timeout=30) as answer:
        status: int = answer.status
        return status


class TestAnyStore:
    def test_parts_become_one_object(self, store: ObjectStore, tmp_path: Path) -> None:
        upload = store.start_upload("uploads/1.zip", "application/zip")
        send(store, "uploads/1.zip", upload, 2, LAST)
        send(store, "uploads/1.zip", upload, 1, FIRST)
        assert list(store.list_parts("uploads/1.zip", upload)) == [UploadPart(1, len(FIRST)), UploadPart(2, len(LAST))]
        assert not store.exists("uploads/1.zip")
        done = store.complete_upload("uploads/1.zip", upload)
        assert (done.key, done.size) == ("uploads/1.zip", len(FIRST) + len(LAST))
        store.get_file("uploads/1.zip", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == FIRST + LAST
        assert list(store.list_uploads()) == []

    def test_completing_twice_changes_nothing(self, store: ObjectStore) -> None:
        upload = store.start_upload("a")
        send(store, "a", upload, 1, LAST)
        store.complete_upload("a", upload)
        # Swift says yes again, the others that there is no such upload.
        with suppress(UploadMissingError):
            assert store.complete_upload("a", upload).size == len(LAST)
        with store.open("a") as source:
            assert source.read() == LAST

    def test_an_interrupted_upload_goes_on_in_another_process(self, store: ObjectStore) -> None:
        upload = store.start_upload("a")
        send(store, "a", upload, 1, FIRST)
        (pending,) = store.list_uploads()
        assert (pending.key, pending.upload_id) == ("a", upload)
        assert list(store.list_parts("a", upload)) == [UploadPart(1, len(FIRST))]
        send(store, "a", upload, 2, LAST)
        assert store.complete_upload("a", upload).size == len(FIRST) + len(LAST)

    def test_a_part_sent_again_replaces_the_earlier_one(self, store: ObjectStore) -> None:
        upload = store.start_upload("a")
        send(store, "a", upload, 1, b"something else, and longer")
        send(store, "a", upload, 1, LAST)
        assert store.complete_upload("a", upload).size == len(LAST)
        with store.open("a") as source:
            assert source.read() == LAST

    def test_a_part_that_ends_early_is_refused_and_the_earlier_one_kept(self, store: ObjectStore) -> None:
        upload = store.start_upload("a")
        send(store, "a", upload, 1, LAST)
        with pytest.raises(StoreError, match=r"Part 1 of a ended after 3 of 10 bytes\. Send it again"):
            store.put_part("a", upload, 1, io.BytesIO(b"abc"), 10)
        assert list(store.list_parts("a", upload)) == [UploadPart(1, len(LAST))]

    def test_a_part_takes_no_more_than_its_size(self, store: ObjectStore) -> None:
        upload, source = store.start_upload("a"), io.BytesIO(b"part and rest")
        store.put_part("a", upload, 1, source, 4)
        assert source.read() == b" and rest"
        assert store.complete_upload("a", upload).size == 4

    @pytest.mark.parametrize(("numbers", "missing"), [([1, 3], "2"), ([2], "1"), ([], "1")])
    def test_a_gap_is_told(self, store: ObjectStore, numbers: list[int], missing: str) -> None:
        upload = store.start_upload("a")
        for number in numbers:
            send(store, "a", upload, number, LAST)
        with pytest.raises(StoreError, match=rf"not complete: part {missing} is missing"):
            store.complete_upload("a", upload)
        assert not store.exists("a")
        store.abort_upload("a", upload)

    def test_an_upload_that_was_given_up_is_gone_and_may_be_again(self, store: ObjectStore) -> None:
        upload = store.start_upload("a")
        send(store, "a", upload, 1, LAST)
        for _ in range(2):
            store.abort_upload("a", upload)
        assert list(store.list_uploads()) == []
        for call in (
            lambda: store.list_parts("a", upload),
            lambda: store.complete_upload("a", upload),
            lambda: send(store, "a", upload, 2, LAST),
        ):
            with pytest.raises(UploadMissingError, match="Start a new one"):
                call()
        assert not store.exists("a")

    def test_an_id_that_never_was_is_refused_whatever_it_says(self, store: ObjectStore) -> None:
        store.put_bytes("victim/upload.json", b"{}")
        for upload in ("nobody", "../victim", "0" * 32):
            with pytest.raises(UploadMissingError):
                store.list_parts("a", upload)
            with pytest.raises(UploadMissingError):
                send(store, "a", upload, 1, LAST)
            store.abort_upload("a", upload)
        assert store.exists("victim/upload.json")

    def test_an_upload_belongs_to_its_key(self, store: ObjectStore) -> None:
        upload = store.start_upload("mine")
        with pytest.raises(UploadMissingError):
            send(store, "yours", upload, 1, LAST)
        store.abort_upload("yours", upload)
        send(store, "mine", upload, 1, LAST)
        assert store.complete_upload("mine", upload).size == len(LAST)

    def test_abandoned_uploads_are_listed_by_folder_with_their_age(self, store: ObjectStore) -> None:
        uploads = {key: store.start_upload(key) for key in ("uploads/1/a", "uploads/1/b", "uploads/10/a")}
        found = {pending.key: pending for pending in store.list_uploads("uploads/1")}
        assert {key: pending.upload_id for key, pending in found.items()} == {
            key: uploads[key] for key in ("uploads/1/a", "uploads/1/b")
        }
        ages = [datetime.now(UTC) - pending.started_at for pending in found.values()]
        assert all(timedelta(seconds=-5) < age < timedelta(minutes=5) for age in ages)
        assert len(list(store.list_uploads())) == 3
        assert list(store.list_uploads("nothing")) == []

    def test_an_upload_replaces_what_the_key_held_when_it_is_complete(self, store: ObjectStore) -> None:
        store.put_bytes("a", b"old")
        upload = store.start_upload("a")
        send(store, "a", upload, 1, LAST)
        with store.open("a") as source:
            assert source.read() == b"old"
        store.complete_upload("a", upload)
        with store.open("a") as source:
            assert source.read() == LAST

    def test_parts_arrive_in_parallel(self, store: ObjectStore) -> None:
        upload = store.start_upload("a")
        parts = {1: FIRST, 2: FIRST[::-1], 3: FIRST, 4: LAST}
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: send(store, "a", upload, number, parts[number]), parts))
        store.complete_upload("a", upload)
        with store.open("a") as source:
            assert source.read() == b"".join(parts.values())

    def test_more_parts_than_a_page_of_the_list_are_all_there(self, store: ObjectStore) -> None:
        upload = store.start_upload("a")
        for number in range(1, 13):
            send(store, "a", upload, number, b"x" * number)
        assert [part.number for part in store.list_parts("a", upload)] == list(range(1, 13))
        store.abort_upload("a", upload)

    def test_bad_keys_and_numbers_are_refused(self, store: ObjectStore) -> None:
        upload, bad = store.start_upload("a"), "../secret"
        for call in (
            lambda: store.start_upload(bad),
            lambda: store.list_parts(bad, upload),
            lambda: send(store, bad, upload, 1, LAST),
            lambda: store.complete_upload(bad, upload),
            lambda: store.abort_upload(bad, upload),
            lambda: store.presign_part(bad, upload, 1, 60),
            lambda: store.presign_put(bad, 60),
            lambda: list(store.list_uploads(bad)),
        ):
            with pytest.raises(InvalidKeyError):
                call()
        for number in (0, -1, MAX_PARTS + 1):
            with pytest.raises(StoreError, match="numbered from 1"):
                send(store, "a", upload, number, LAST)
            with pytest.raises(StoreError, match="numbered from 1"):
                store.presign_part("a", upload, number, 60)


class TestSizes:
    @pytest.mark.parametrize("size", [0, 1, 5 << 30, 160_000 * MIB, 200_000 * MIB, MAX_OBJECT_BYTES])
    def test_parts_keep_the_limits_of_every_service(self, size: int) -> None:
        part = part_size_for(size)
        assert MIN_PART_BYTES <= part <= 5 << 30
        assert part * MAX_PARTS >= size
        assert part % MIB == 0

    def test_what_no_service_can_hold_is_refused(self) -> None:
        with pytest.raises(StoreError, match="Split the file"):
            part_size_for(MAX_OBJECT_BYTES + 1)


class TestLocalStore:
    def test_the_platform_takes_the_parts_itself(self, tmp_path: Path) -> None:
        store = open_store(LocalStoreSettings(tmp_path))
        upload = store.start_upload("a")
        assert store.presign_part("a", upload, 1, 60) is None
        assert store.presign_put("a", 60) is None

    def test_nothing_is_left_behind(self, tmp_path: Path) -> None:
        store = open_store(LocalStoreSettings(tmp_path))
        for end in (store.complete_upload, store.abort_upload):
            upload = store.start_upload("folder/a")
            send(store, "folder/a", upload, 1, LAST)
            end("folder/a", upload)
        store.delete("folder/a")
        assert [path.name for path in tmp_path.rglob("*")] == [".incoming"]

    def test_a_folder_goes_with_its_last_object_and_comes_back(self, tmp_path: Path) -> None:
        store = open_store(LocalStoreSettings(tmp_path))

        def put_and_delete(number: int) -> None:
            for _ in range(50):
                store.put_bytes(f"deep/er/{number}", b"x")
                store.delete(f"deep/er/{number}")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(put_and_delete, range(4)))
        assert not (tmp_path / "deep").exists()

    def test_two_that_complete_at_once_leave_one_whole_object(self, tmp_path: Path) -> None:
        store = open_store(LocalStoreSettings(tmp_path))
        upload = store.start_upload("a")
        send(store, "a", upload, 1, FIRST)
        send(store, "a", upload, 2, LAST)
        barrier, ended = threading.Barrier(2), []

        def complete() -> None:
            barrier.wait()
            try:
                ended.append(store.complete_upload("a", upload).size)
            except UploadMissingError:
                ended.append(0)

        threads = [threading.Thread(target=complete) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert max(ended) == len(FIRST) + len(LAST)
        with store.open("a") as source:
            assert source.read() == FIRST + LAST


class TestS3Store:
    def test_a_browser_sends_the_parts_straight_to_the_service(self, s3_settings: S3StoreSettings) -> None:
        store = open_store(s3_settings)
        upload = store.start_upload("a")
        for number, data in ((1, FIRST), (2, LAST)):
            link = store.presign_part("a", upload, number, 60)
            assert link is not None
            assert http_put(link, data) == 200
        assert store.complete_upload("a", upload).size == len(FIRST) + len(LAST)

    def test_a_link_is_good_for_one_part_of_one_upload(self, s3_settings: S3StoreSettings) -> None:
        store = open_store(s3_settings)
        upload = store.start_upload("a")
        link = store.presign_part("a", upload, 1, 60)
        assert link is not None
        for tampered in (link.replace("partNumber=1", "partNumber=2"), link.replace("/a?", "/b?")):
            assert tampered != link
            with pytest.raises(urllib.error.HTTPError, match="403"):
                http_put(tampered, LAST)

    def test_a_link_takes_a_whole_object(self, s3_settings: S3StoreSettings) -> None:
        store = open_store(s3_settings)
        link = store.presign_put("a", 60)
        assert link is not None
        assert http_put(link, LAST) == 200
        with store.open("a") as source:
            assert source.read() == LAST

    def test_links_are_for_the_public_address(self, s3_settings: S3StoreSettings) -> None:
        # localhost stands for the address that browsers reach, 127.0.0.1 for the one within the cluster.
        public = s3_settings.endpoint.replace("127.0.0.1", "localhost")
        store = open_store(replace(s3_settings, public_endpoint=public))
        put, get = store.presign_put("a", 60), store.presign_get("a", 60)
        assert put is not None
        assert get is not None
        assert put.startswith(f"{public}/")
        assert http_put(put, LAST) == 200
        with urllib.request.urlopen(get, timeout=30) as answer:
            assert answer.read() == LAST

    def test_parts_that_are_too_small_are_refused_in_words(self, s3_settings: S3StoreSettings) -> None:
        store = open_store(s3_settings)
        upload = store.start_upload("a")
        send(store, "a", upload, 1, LAST)
        send(store, "a", upload, 2, LAST)
        with pytest.raises(StoreError, match="Part 1 of a is smaller than 5 MiB"):
            store.complete_upload("a", upload)

    def test_a_wrong_secret_is_told_by_every_step(self, s3_settings: S3StoreSettings) -> None:
        upload = open_store(s3_settings).start_upload("a")
        store = open_store(replace(s3_settings, secret_key="a-wrong-secret"))
        for call in (
            lambda: store.start_upload("a"),
            lambda: send(store, "a", upload, 1, LAST),
            lambda: store.list_parts("a", upload),
            lambda: store.complete_upload("a", upload),
            lambda: store.abort_upload("a", upload),
            lambda: list(store.list_uploads()),
        ):
            with pytest.raises(StoreDeniedError, match="MINIO_SECRET_KEY"):
                call()
