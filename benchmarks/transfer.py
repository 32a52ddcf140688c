"""One large object, up and down, against the tools that people use for it: side by side in one run.

    .venv/bin/python benchmarks/transfer.py --rounds 5

The contenders, each a process of its own, in an order that turns from round to round, with the file in the page cache:

    trainyard   trainer.store: SHA-256 of every byte, before it is sent and after it is fetched
    boto3       its transfer manager with parts of 64 MiB, otherwise as it comes
    crt         the AWS Common Runtime's S3 client, as it comes (boto3's own switch to it ignores custom endpoints)
    aws cli     `aws s3 cp`, as it comes

The server is Ceph's radosgw on loopback, with its data in memory, or OpenStack Swift (`--server swift`). Two times
are taken: of the whole process (start of Python and imports included), and of the transfer alone, which the aws cli
does not tell. A ratio is the best contender's time over ours, round by round: above 1 we are faster.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# Tools that the project itself has no use for live apart: the aws cli demands another botocore than ours, and where
# awscrt can be imported, botocore imports it.
TOOLS = ROOT / "var" / "tools"
PACKAGES = {"aws cli": ("awscli>=1.45,<2",), "crt": ("awscrt>=0.38,<1", "s3transfer>=0.19,<1")}
MIB = 1 << 20
CONTENDERS = ("trainyard", "boto3", "crt", "aws cli")


Transfers = tuple[Callable[[str, Path], Any], Callable[[str, Path], Any]]  # up and down, by key and path


@dataclass(frozen=True)
class Server:
    """The bucket of this run, and who may use it."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str

    def environ(self) -> dict[str, str]:
        """As the AWS tools read it; ours is given the same values."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            # radosgw refuses the checksums that botocore adds of itself.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }


# --- the contenders, each in a process of its own --------------------------------------------------------------


def trainyard(bucket: str) -> Transfers:
    from trainer.store import S3StoreSettings, open_store

    env = os.environ
    keys = (env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"])
    store = open_store(S3StoreSettings("minio", env["AWS_ENDPOINT_URL"], *keys, bucket))
    store.presign_get("none", 1)  # makes the client, as the others do here
    return store.put_file, store.get_file


def boto3(bucket: str) -> Transfers:
    import boto3
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config

    config = TransferConfig(multipart_threshold=64 * MIB, multipart_chunksize=64 * MIB)
    client = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
    return (
        lambda key, path: client.upload_file(str(path), bucket, key, Config=config),
        lambda key, path: client.download_file(bucket, key, str(path), Config=config),
    )


def crt(bucket: str) -> Transfers:
    """The runtime itself: s3transfer's wrapper demands checksums in trailers, which radosgw refuses."""
    from urllib.parse import urlsplit

    from awscrt.auth import AwsCredentialsProvider
    from awscrt.http import HttpHeaders, HttpRequest
    from awscrt.s3 import S3RequestType
    from s3transfer.crt import create_s3_crt_client

    endpoint = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    keys = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    client = create_s3_crt_client(
        "us-east-1", AwsCredentialsProvider.new_static(*keys), use_ssl=endpoint.scheme == "https"
    )

    def ask(kind: S3RequestType, key: str, size: int, **more: Any) -> None:
        headers = HttpHeaders([("host", endpoint.netloc), ("content-length", str(size))])
        method = "PUT" if kind is S3RequestType.PUT_OBJECT else "GET"
        request = HttpRequest(method, f"/{bucket}/{key}", headers)
        client.make_request(type=kind, request=request, **more).finished_future.result()

    return (
        lambda key, path: ask(S3RequestType.PUT_OBJECT, key, path.stat().st_size, send_filepath=str(path)),
        lambda key, path: ask(S3RequestType.GET_OBJECT, key, 0, recv_filepath=str(path)),
    )


def transfer(contender: str, direction: str, bucket: str, key: str, path: Path) -> None:
    """One transfer; says how long it took and how much memory the process held at most."""
    up, down = {"trainyard": trainyard, "boto3": boto3, "crt": crt}[contender](bucket)
    started = time.perf_counter()
    (up if direction == "up" else down)(key, path)
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()  # getrusage's peak is taken over from the parent process
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
    print(json.dumps({"seconds": seconds, "peak": peak}), flush=True)


# --- the comparison --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """One run of one contender. Seconds of the whole process, and of the transfer where it is known; peak in bytes."""

    whole: float
    alone: float | None
    peak: int | None


def measure(contender: str, direction: str, server: Server, key: str, path: Path) -> Measured:
    if contender == "aws cli":
        address = f"s3://{server.bucket}/{key}"
        ends = (str(path), address) if direction == "up" else (address, str(path))
        command = [python_of(contender), "-m", "awscli", "s3", "cp", "--only-show-errors", *ends]
    else:
        command = [python_of(contender), __file__, "--contender", contender, direction, server.bucket, key, str(path)]
    started = time.perf_counter()
    done = subprocess.run(command, env=server.environ(), capture_output=True, text=True, check=False)
    whole = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{contender} {direction} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    said = {} if contender == "aws cli" else json.loads(done.stdout.splitlines()[-1])
    return Measured(whole, said.get("seconds"), said.get("peak"))


def python_of(contender: str) -> str:
    """The Python that runs it."""
    home = TOOLS / f"bench-{contender.replace(' ', '-')}"
    return str(home / "bin" / "python") if contender in PACKAGES else sys.executable


def install_contenders() -> None:
    uv = shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
    for contender, packages in PACKAGES.items():
        python = Path(python_of(contender))
        done = python.parents[1] / ".installed"
        if not done.exists() or done.read_text() != str(packages):
            commands = (
                [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(python.parents[1])],
                [uv, "pip", "install", "--quiet", "--python", str(python), *packages],
            )
            for command in commands:
                subprocess.run(command, check=True)
            done.write_text(str(packages))


def make_file(path: Path, size: int) -> str:
    """Bytes that nothing can compress, and their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            chunk = os.urandom(min(MIB, size - start))
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def same(path: Path, sha256: str) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def compare(server: Server, size: int, rounds: int, folder: Path) -> dict[str, dict[str, list[Measured]]]:
    """Measurements by direction and contender. The first round warms up and is not counted."""
    source, target = folder / "source", folder / "target"
    sha256 = make_file(source, size)
    results: dict[str, dict[str, list[Measured]]] = {"up": {}, "down": {}}
    for number in range(rounds + 1):
        turn = number % len(CONTENDERS)
        for contender in (*CONTENDERS[turn:], *CONTENDERS[:turn]):
            key = f"{contender.replace(' ', '-')}.bin"
            for direction, path in (("up", source), ("down", target)):
                measured = measure(contender, direction, server, key, path)
                if number:
                    results[direction].setdefault(contender, []).append(measured)
            if not same(target, sha256):
                raise SystemExit(f"{contender}: what came back differs from what was sent")
            target.unlink()
        print(f"round {number} of {rounds} done", file=sys.stderr, flush=True)
    return results


def report(results: dict[str, dict[str, list[Measured]]], size: int) -> dict[str, float]:
    """Print a table for each direction; return the median ratios to the best of the others."""
    ratios: dict[str, float] = {}
    for direction, by_contender in results.items():
        print(f"\n{'upload' if direction == 'up' else 'download'} of {size / 1e6:.0f} MB")
        print(f"  {'':12}{'whole process':>16}{'transfer alone':>17}{'MB/s':>8}{'peak MiB':>10}")
        for contender, runs in by_contender.items():
            whole = statistics.median(run.whole for run in runs)
            alone = statistics.median(run.alone or run.whole for run in runs)
            peak = max(run.peak or 0 for run in runs) / MIB
            told = f"{alone:15.2f} s" if runs[0].alone else f"{'-':>17}"
            print(f"  {contender:12}{whole:14.2f} s{told}{size / alone / 1e6:8.0f}{peak:10.0f}")
        for what in ("whole", "alone"):
            ours = [getattr(run, what) for run in by_contender["trainyard"]]
            others = [
                [getattr(run, what) or float("inf") for run in runs]
                for contender, runs in by_contender.items()
                if contender != "trainyard"
            ]
            each = [min(rivals) / mine for mine, rivals in zip(ours, zip(*others, strict=True), strict=True)]
            ratios[f"{direction} {what}"] = statistics.median(each)
            label = "whole process" if what == "whole" else "transfer alone"
            print(
                f"  {label}, best of the others / ours: {statistics.median(each):.2f} ({min(each):.2f}-{max(each):.2f})"
            )
    return ratios


def start(kind: str, folder: Path, size: int) -> AbstractContextManager[Any]:
    from servers.rgw import run_rgw
    from servers.swift import run_swift

    # Each contender's object stays until it is replaced, and what is replaced is freed later.
    return run_rgw(folder, memory=max(4 << 30, 16 * size)) if kind == "rgw" else run_swift(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=("rgw", "swift"), default="rgw")
    parser.add_argument("--size", type=int, default=500, help="MB (default 500)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the measurements here")
    parser.add_argument("--contender", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        contender, direction, bucket, key, path = arguments.contender
        transfer(contender, direction, bucket, key, Path(path))
        return
    install_contenders()
    size = arguments.size * 1_000_000
    with tempfile.TemporaryDirectory(prefix="trainyard-transfer-") as name:
        folder = Path(name)
        with start(arguments.server, folder / "server", size) as service:
            bucket = f"transfer-{uuid.uuid4().hex[:8]}"
            service.client().create_bucket(Bucket=bucket)
            server = Server(service.endpoint, service.access_key, service.secret_key, bucket)
            results = compare(server, size, arguments.rounds, folder)
    ratios = report(results, size)
    if arguments.json:
        raw = {d: {c: [vars(run) for run in runs] for c, runs in by.items()} for d, by in results.items()}
        arguments.json.write_text(json.dumps({"ratios": ratios, "runs": raw}, indent=1))


if __name__ == "__main__":
    main()
