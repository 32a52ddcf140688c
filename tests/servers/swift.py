"""A real S3 service: OpenStack Swift with its S3 interface, on loopback, in a temporary folder.

Swift is installed once, into `var/tools/swift`, an environment of its own.
"""

import fcntl
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from servers.s3 import S3Service, free_ports, stop

REPOSITORY = Path(__file__).parents[2]
TOOLS = REPOSITORY / "var" / "tools"
SWIFT = "swift>=2.38,<3"
ACCESS_KEY, SECRET_KEY = "test:tester", "testing"
BACKENDS = ("account", "container", "object")

SWIFT_CONF = """
[swift-hash]
swift_hash_path_prefix = tests
swift_hash_path_suffix = tests
[storage-policy:0]
name = default
default = yes
"""

BACKEND_CONF = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
workers = 0
disable_fallocate = true
log_level = WARNING
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
fallocate_reserve = 0
recon_cache_path = {folder}/recon
"""

FILTERS = (
    "catch_errors",
    "gatekeeper",
    "healthcheck",
    "listing_formats",
    "bulk",
    "s3api",
    "tempauth",
    "copy",
    "slo",
    "dlo",
    "versioned_writes",
    "symlink",
)

PROXY_CONF = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {folder}
workers = 0
log_level = WARNING
[pipeline:main]
pipeline = {pipeline} proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
"""

FILTER_SETTINGS = {
    # Short pages, so that a few objects or parts show whether a listing goes on after the first one.
    "s3api": "location = us-east-1\nmax_bucket_listing = 50\nmax_parts_listing = 5",
    "tempauth": f"user_{ACCESS_KEY.replace(':', '_')} = {SECRET_KEY} .admin",
    "versioned_writes": "allow_object_versioning = true",
}

# One ring of one device for each kind of backend: kind and port alternate on the command line.
RINGS = """
import sys
from swift.common.ring import RingBuilder
for kind, port in zip(sys.argv[1::2], sys.argv[2::2]):
    builder = RingBuilder(4, 1, 1)
    device = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "d1", "weight": 1}
    builder.add_dev(device)
    builder.rebalance()
    builder.get_ring().save(kind + ".ring.gz")
"""


def install_swift() -> Path:
    """The folder of Swift's programs, installing it where needed; skips where that fails."""
    home = TOOLS / "swift"
    TOOLS.mkdir(parents=True, exist_ok=True)
    with (TOOLS / "swift.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # parallel test workers share the environment
        done = home / ".installed"
        if not done.exists() or done.read_text() != SWIFT:
            uv = shutil.which("uv") or str(REPOSITORY / ".tools" / "bin" / "uv")
            commands = (
                [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)],
                [uv, "pip", "install", "--quiet", "--python", str(home / "bin" / "python"), SWIFT],
            )
            for command in commands:
                try:
                    subprocess.run(command, check=True, capture_output=True, text=True)
                except (OSError, subprocess.CalledProcessError) as error:
                    why = getattr(error, "stderr", "") or str(error)
                    pytest.skip(f"OpenStack Swift, the S3 service of these tests, did not install: {why[-500:]}")
            done.write_text(SWIFT)
    return home / "bin"


@contextmanager
def run_swift(folder: Path) -> Iterator[S3Service]:
    """Run Swift below `folder`; skips the test where Swift cannot be installed."""
    binaries = install_swift()
    kinds = (*BACKENDS, "proxy")
    ports = dict(zip(kinds, free_ports(len(kinds)), strict=True))
    _configure(binaries, folder, ports)
    with ExitStack() as stack:
        servers = []
        for kind, port in ports.items():
            log = stack.enter_context((folder / f"{kind}.log").open("w"))
            command = [str(binaries / f"swift-{kind}-server"), str(folder / f"{kind}-server.conf")]
            server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
            stack.callback(stop, server)
            servers.append((kind, port, server))
        for kind, port, server in servers:
            _wait_for(kind, port, server, folder)
        endpoint = f"http://127.0.0.1:{ports['proxy']}"
        urllib.request.urlopen(f"{endpoint}/healthcheck", timeout=10).close()
        yield S3Service(endpoint, ACCESS_KEY, SECRET_KEY)


def _configure(binaries: Path, folder: Path, ports: dict[str, int]) -> None:
    (folder / "devices" / "d1").mkdir(parents=True)
    (folder / "recon").mkdir()
    (folder / "swift.conf").write_text(SWIFT_CONF)
    common = {"folder": folder, "user": getpass.getuser()}
    for kind in BACKENDS:
        text = BACKEND_CONF.format(kind=kind, port=ports[kind], **common)
        (folder / f"{kind}-server.conf").write_text(text)
    proxy = PROXY_CONF.format(port=ports["proxy"], pipeline=" ".join(FILTERS), **common)
    for name in FILTERS:
        proxy += f"[filter:{name}]\nuse = egg:swift#{name}\n{FILTER_SETTINGS.get(name, '')}\n"
    (folder / "proxy-server.conf").write_text(proxy)
    rings = [argument for kind in BACKENDS for argument in (kind, str(ports[kind]))]
    # RingBuilder reads swift.conf from where SWIFT_CONF_DIR, or else /etc/swift, is.
    subprocess.run(
        [str(binaries / "python"), "-c", RINGS, *rings],
        cwd=folder,
        env={**os.environ, "SWIFT_CONF_DIR": str(folder)},
        check=True,
    )


def _wait_for(kind: str, port: int, server: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"Swift's {kind} server did not start: {(folder / f'{kind}.log').read_text()[-2000:]}")
