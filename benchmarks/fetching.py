"""What a cold trainer's fetch of a dataset of small files costs, beside boto3 asking for every file.

    python benchmarks/fetching.py --server rgw --rounds 3

In one run and on one real S3 server: a plain boto3 loop over single objects, a pool of 16 threads over single objects,
and `trainer.dataset.fetching.fetch`. Each is a process of its own, timed from its start to its end, in an order that
alternates from round to round; ratios are those of one round. All three write the files to a folder; ours alone
checks them. Then the start from a warm cache, and the peak memory of packing and fetching at ten times the files.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

DATASET = "benchmark"
REQUIRED = {"loop": 3.0, "pool": 1.8}
GOAL = 5.0
WARM_SECONDS = 1.0
BUSY = 4  # so many times the files of a round keep every shard and thread that packing allows itself at work
FLAT = 1.25  # ten times the files may take a quarter more memory


@dataclass
class Run:
    """One process: seconds from start to end, CPU seconds, and peak memory in MiB."""

    wall: float
    cpu: float
    peak: float
    output: str


def main() -> None:
    options = _options()
    if options.role:
        print(_ROLES[options.role](*options.arguments) or "")
        print(_peak())
        return
    scratch = Path(tempfile.mkdtemp(prefix="trainyard-bench-"))
    try:
        failed = _bench(options, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    sys.exit(1 if failed else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=("rgw", "swift"), default="rgw")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=2_000)
    parser.add_argument("--size", type=int, default=50_000, help="bytes of a file")
    parser.add_argument("--json", type=Path, help="also write the measurements here")
    parser.add_argument("--role", choices=tuple(_ROLES), help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args()


def _bench(options: argparse.Namespace, scratch: Path) -> bool:
    sys.path[:0] = [str(ROOT / "tests")]
    from servers.rgw import run_rgw
    from servers.swift import run_swift

    run_server: Any = {"rgw": run_rgw, "swift": run_swift}[options.server]
    with run_server(scratch / "server") as service:
        service.client().create_bucket(Bucket="benchmark")
        settings = service.settings("benchmark")
        os.environ["BENCH_STORE"] = json.dumps([settings.endpoint, settings.access_key, settings.secret_key])
        files = scratch / "files"
        _make_files(files, options.files, options.size)
        sha256 = _run("pack", files).output
        _put_single_objects(files)
        print(f"{options.files} files of {options.size} bytes on {options.server}, {options.rounds} rounds\n")
        measured = _race(options.rounds, scratch, sha256)
        memory = _memory(options.files, scratch)
    if options.json:
        options.json.write_text(json.dumps({"runs": measured, "memory": memory}, indent=2))
    return _report(measured, memory)


def _race(rounds: int, scratch: Path, sha256: str) -> dict[str, list[float]]:
    measured: dict[str, list[float]] = {"loop": [], "pool": [], "fetch": [], "warm": []}
    contestants: dict[str, Callable[[Path], Run]] = {
        "loop": lambda folder: _run("loop", folder),
        "pool": lambda folder: _run("pool", folder),
        "fetch": lambda folder: _run("fetch", folder, sha256),
    }
    for number in range(rounds):
        order = list(contestants.items())
        for name, start in order[:: -1 if number % 2 else 1]:
            folder = scratch / f"{name}-{number}"
            run = start(folder)
            measured[name].append(run.wall)
            print(f"  {name:6} {run.wall:7.2f} s  CPU {run.cpu:6.2f} s  peak {run.peak:4.0f} MiB")
            if name == "fetch":
                warm = _run("fetch", folder, sha256)
                measured["warm"].append(warm.wall)
                print(f"  {'warm':6} {warm.wall:7.2f} s  CPU {warm.cpu:6.2f} s  peak {warm.peak:4.0f} MiB")
            shutil.rmtree(folder)
    return measured


def _memory(files: int, scratch: Path) -> dict[str, list[float]]:
    """Peak memory, at BUSY times `files` and at ten times as many, of 5,000 bytes each."""
    files *= BUSY
    peaks: dict[str, list[float]] = {"pack": [], "fetch": []}
    for count in (files, 10 * files):
        folder, cache = scratch / f"many-{count}", scratch / f"cache-{count}"
        _make_files(folder, count, 5_000)
        packed = _run("pack", folder)
        peaks["pack"].append(packed.peak)
        peaks["fetch"].append(_run("fetch", cache, packed.output).peak)
        shutil.rmtree(folder)
        shutil.rmtree(cache)
    return peaks


def _report(measured: dict[str, list[float]], memory: dict[str, list[float]]) -> bool:
    """Print the ratios; returns whether one of them is not what it has to be."""
    print()
    failed = False
    for name, required in REQUIRED.items():
        ratios = [theirs / ours for theirs, ours in zip(measured[name], measured["fetch"], strict=True)]
        median = statistics.median(ratios)
        failed |= median < required
        goal = f", goal {GOAL:g}" if name == "loop" else ""
        print(
            f"{name} / fetch: {median:.2f} ({', '.join(f'{each:.2f}' for each in ratios)}); at least {required:g}{goal}"
        )
    warm = statistics.median(measured["warm"])
    failed |= warm >= WARM_SECONDS
    print(f"warm start, the whole process: {warm:.2f} s; less than {WARM_SECONDS:g}")
    for name, (few, many) in memory.items():
        failed |= many > FLAT * few
        print(f"peak memory of {name}: {few:.0f} MiB, with ten times the files {many:.0f}; at most {FLAT * few:.0f}")
    return failed


def _run(role: str, *arguments: object) -> Run:
    command = [sys.executable, __file__, "--role", role, *map(str, arguments)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output, _newline, peak = process.stdout.read().strip().rpartition("\n")
    _pid, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{role} ended with {process.returncode}")
    return Run(wall, usage.ru_utime + usage.ru_stime, float(peak), output)


def _make_files(folder: Path, count: int, size: int) -> None:
    """Bytes that do not compress, as those of pictures do not."""
    (folder / "images" / "train").mkdir(parents=True)
    for number in range(count):
        (folder / "images" / "train" / f"{number:06}.jpg").write_bytes(os.urandom(size))


def _put_single_objects(files: Path) -> None:
    client = _client()
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(
            lambda path: client.put_object(Bucket="benchmark", Key=f"single/{path.name}", Body=path.read_bytes()),
            sorted((files / "images" / "train").iterdir()),
        ):
            pass
    names = [path.name for path in sorted((files / "images" / "train").iterdir())]
    client.put_object(Bucket="benchmark", Key="names", Body=json.dumps(names).encode())


# --- what the processes do ----------------------------------------------------------------------------------


def _peak() -> float:
    """This process's peak memory in MiB. The kernel's count for its parent would have the parent's own in it."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def _client() -> Any:
    import boto3
    from botocore.config import Config

    endpoint, access_key, secret_key = json.loads(os.environ["BENCH_STORE"])
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(
            s3={"addressing_style": "path"}, max_pool_connections=16, request_checksum_calculation="when_required"
        ),
    )


def _single_objects(folder: str, threads: int) -> None:
    client, target = _client(), Path(folder)
    target.mkdir()
    names = json.loads(client.get_object(Bucket="benchmark", Key="names")["Body"].read())

    def get(name: str) -> None:
        body = client.get_object(Bucket="benchmark", Key=f"single/{name}")["Body"]
        (target / name).write_bytes(body.read())

    if threads == 1:
        for name in names:
            get(name)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(get, names))


def _store() -> Any:
    from trainer.store import S3StoreSettings, open_store

    return open_store(S3StoreSettings("minio", *json.loads(os.environ["BENCH_STORE"]), "benchmark"))


def _fetch(folder: str, sha256: str) -> None:
    from trainer.dataset.fetching import fetch

    fetch(_store(), DATASET, sha256, Path(folder), max_bytes=10**12).close()


def _pack(folder: str) -> str:
    from trainer.contract.tasks import TaskType
    from trainer.dataset.layout import Description
    from trainer.dataset.packing import MemoryIndex, pack

    class NoIndex(MemoryIndex):
        """Knows nothing and keeps nothing, as an index in a database does not keep it in memory."""

        def add(self, shard: object, files: object) -> None:
            pass

    description = Description(TaskType.OBJECT_DETECTION, ("thing",))
    return pack(Path(folder), description, ok=True, store=_store(), dataset_id=DATASET, index=NoIndex()).sha256


_ROLES: dict[str, Callable[..., str | None]] = {
    "loop": lambda folder: _single_objects(folder, 1),
    "pool": lambda folder: _single_objects(folder, 16),
    "fetch": _fetch,
    "pack": _pack,
}

if __name__ == "__main__":
    main()
