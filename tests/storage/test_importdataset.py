"""`manage.py importdataset`, as somebody at a shell uses it."""

import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from apps.projects.models import Project
from apps.storage.models import Dataset, DatasetImport, DatasetVersion
from published import published
from servers.s3 import S3Service
from trainer.store import ObjectStore

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _places(db: None, store: ObjectStore, data_dir: Path) -> None:
    """A database, a store and a folder of its own for every test."""


def run(source: Path | str, *more: str, task: str = "object_detection") -> str:
    said = StringIO()
    call_command("importdataset", str(source), "--project", "Mine", "--task", task, *more, stdout=said)
    return said.getvalue()


def test_a_folder_becomes_a_version_in_a_project_that_is_made_for_it(sample: Path, store: ObjectStore) -> None:
    said = run(sample, "--name", "shapes")
    assert "shapes v1 in project Mine is new." in said
    assert "train: 6 images" in said
    assert [line for line in said.splitlines() if line.endswith(" …")][:2] == ["Converting …", "Checking …"]
    dataset = Dataset.objects.get(project__name="Mine")
    assert dataset.latest is not None
    assert dataset.latest.images == {"train": 6, "val": 2}
    assert "nothing changed" in run(sample, "--name", "shapes")
    assert dataset.versions.count() == 1


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_an_archive_is_imported_under_its_own_name(kind: str, sample: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "shelf photos"), kind, sample)
    assert "shelf photos v1 in project Mine is new." in run(archive)
    assert Path(archive).exists()


def test_errors_are_grouped_and_counted_and_the_exit_code_is_1(sample: Path) -> None:
    for label in (sample / "labels" / "train").iterdir():
        label.write_text("99 0.5 0.5 0.1 0.1\n")
    said = StringIO()
    arguments = [str(sample), "--project", "Mine", "--task", "object_detection"]
    with pytest.raises(CommandError, match="has errors") as caught:
        call_command("importdataset", *arguments, stdout=said)
    assert caught.value.returncode == 1
    assert "6 × error" in said.getvalue()
    assert "labels/train/sample-0000.txt, line 1: " in said.getvalue()
    assert "… and 3 more" in said.getvalue()
    assert DatasetVersion.objects.get().trainable is False


def test_the_task_of_a_dataset_is_asked_for_once(sample: Path) -> None:
    with pytest.raises(CommandError, match="say by --task what it is labelled for"):
        call_command("importdataset", str(sample), "--project", "Mine")
    assert not Project.objects.exists()
    run(sample)
    call_command("importdataset", str(sample), "--project", "Mine", stdout=StringIO())
    with pytest.raises(CommandError, match="is a dataset for object_detection"):
        run(sample, task="pose_estimation")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere", "nowhere is no folder, archive or address"),
        ("ftp://example.org/a.zip", "begins with http, https or s3"),
        ("file:///etc/passwd", "begins with http, https or s3"),
        ("s3://bucket/key.zip", "this platform stores in a folder"),
        ("http://127.0.0.1:9/a.zip?secret=1", "http://127.0.0.1:9/a.zip cannot be fetched"),
    ],
)
def test_what_cannot_be_had_is_told_in_words_and_leaves_nothing(
    source: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.storage.sources._TRIES", 1)
    with pytest.raises(CommandError, match=said) as caught:
        run(source)
    assert "secret" not in str(caught.value)
    assert not Project.objects.exists()
    assert not DatasetImport.objects.exists()


def test_a_database_that_is_not_migrated_is_told_in_words(sample: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "manage.py"), "importdataset", str(sample), "--project", "P"]
    environ = os.environ | {"DATA_DIR": str(tmp_path / "fresh"), "DATABASE_URL": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.returncode == 1
    assert "manage.py migrate` first" in done.stderr
    assert sys.executable in done.stderr or f"`{Path(sys.executable).relative_to(Path.cwd())}" in done.stderr
    assert "Traceback" not in done.stderr


# --- the web --------------------------------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Serves one file with ranges, and breaks off after `breaks_after` bytes of an answer, if that is set."""

    content = b""
    tag: str | None = '"one"'
    breaks_after: int | None = None
    moved = missing = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data/photos.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        its = self.server
        if its.moved and self.path != "/data/photos.zip":
            self.send_response(302)
            self.send_header("Location", its.url)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if its.missing:
            self.send_error(404)
            return
        asked = self.headers["Range"]
        its.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if asked and self.headers["If-Range"] != its.tag:
            start, asked = 0, None
        if asked and start >= len(its.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(its.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = its.content[start:]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(its.content) - 1}/{len(its.content)}")
        if its.tag:
            self.send_header("ETag", its.tag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: its.breaks_after])
        if its.breaks_after is not None:
            self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Not on the terminal."""


@pytest.fixture
def web(archive: Path) -> Iterator[Server]:
    with Server() as server:
        server.content = archive.read_bytes()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def downloads(data_dir: Path) -> list[Path]:
    return [path for path in (data_dir / "imports").rglob("*") if path.is_file()]


def test_an_address_is_fetched_and_what_was_fetched_is_removed(web: Server, data_dir: Path) -> None:
    assert "photos v1 in project Mine is new." in run(web.url + "?signature=secret")
    assert DatasetImport.objects.get().source == web.url
    assert downloads(data_dir) == []


def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    web: Server, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.breaks_after = len(web.content) // 3
    monkeypatch.setattr("apps.storage.sources._TRIES", 2)
    with pytest.raises(CommandError, match="run the command again to go on"):
        run(web.url)
    third = web.breaks_after
    web.breaks_after = None
    assert "is new" in run(web.url)
    assert web.asked == [None, f"bytes={third}-", f"bytes={2 * third}-"]
    assert downloads(data_dir) == []


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(
    web: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.storage.sources._TRIES", 1)
    web.breaks_after = 1000
    for tag in ('"one"', None):
        web.tag = tag
        with pytest.raises(CommandError):
            run(web.url)
    web.tag, web.breaks_after = '"two"', None
    assert "is new" in run(web.url)


def test_a_redirect_is_followed_and_one_to_a_file_is_not(web: Server) -> None:
    web.moved = True
    assert "latest v1 in project Mine is new" in run(web.url.replace("/data/photos.zip", "/latest"))


def test_an_answer_that_refuses_leaves_nothing(web: Server, data_dir: Path) -> None:
    web.missing = True
    with pytest.raises(CommandError, match="404"):
        run(web.url)
    assert list((data_dir / "imports" / "downloads").iterdir()) == []


def test_a_server_that_is_not_there_is_asked_a_few_times_and_leaves_nothing(
    data_dir: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/photos.zip"
    said = StringIO()
    with pytest.raises(CommandError, match="refused"):
        call_command("importdataset", url, "--project", "Mine", "--task", "object_detection", stdout=said)
    assert said.getvalue() == "Downloading …\n"
    assert list((data_dir / "imports" / "downloads").iterdir()) == []


def test_a_hostile_download_is_refused_and_not_kept(web: Server, data_dir: Path) -> None:
    web.content = b"<html>Please sign in</html>"
    with pytest.raises(CommandError, match="no archive"):
        run(web.url)
    assert downloads(data_dir) == []


# --- the object store -----------------------------------------------------------------------------------------------


def test_objects_of_another_bucket_are_imported(
    sample: Path, archive: Path, swift: S3Service, s3_store: ObjectStore
) -> None:
    client = swift.client()
    client.create_bucket(Bucket="elsewhere")
    client.upload_file(str(archive), "elsewhere", "sets/shapes.zip")
    client.put_object(Bucket="elsewhere", Key="sets/folder/")  # as consoles make folders
    for path in sample.rglob("*.*"):
        client.upload_file(str(path), "elsewhere", f"sets/folder/{path.relative_to(sample)}")
    assert "shapes v1 in project Mine is new" in run("s3://elsewhere/sets/shapes.zip")
    assert "folder v1 in project Mine is new" in run("s3://elsewhere/sets/folder/")
    one, other = DatasetVersion.objects.all()
    assert one.sha256 == other.sha256
    for wrong, said in (("s3://elsewhere/none.zip", "There is nothing at"), ("s3://nowhere/a.zip", "bucket")):
        with pytest.raises(CommandError, match=said):
            run(wrong)


def test_published_archives_are_imported(capsys: pytest.CaptureFixture[str]) -> None:
    assert "coco8-pose v1 in project Mine is new" in run(published("coco8-pose.zip"), task="pose_estimation")
