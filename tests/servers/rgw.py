"""Another real S3 service: Ceph's radosgw with a cluster of one, its data in memory, on loopback.

Debian: apt install --no-install-recommends radosgw ceph-mon ceph-osd ceph-mgr ceph-common
"""

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from servers.s3 import S3Service, free_ports, stop

ACCESS_KEY, SECRET_KEY = "tests", "testing-secret"
PROGRAMS = ("ceph", "ceph-authtool", "ceph-mgr", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")

# One copy of everything, few placement groups, and no warnings about either.
CEPH_CONF = """
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{mon}]
ms_bind_msgr1 = false
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_warn = 1
mon_data_avail_crit = 1
mon_warn_on_insecure_global_id_reclaim = false
osd_objectstore = memstore
memstore_device_bytes = {memory}
osd_max_object_name_len = 1024
mon_data = {folder}/mon
mgr_data = {folder}/mgr
osd_data = {folder}/osd
rgw_data = {folder}/rgw
crash_dir = {folder}
keyring = {folder}/keyring
log_file = {folder}/$name.log
admin_socket = {folder}/$name.asok
run_dir = {folder}
pid_file = {folder}/$name.pid
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw_enable_ops_log = false
# What was replaced or deleted is freed within seconds, instead of hours.
rgw_gc_obj_min_wait = 2
rgw_gc_processor_period = 2
rgw_gc_processor_max_time = 2
"""

KEYS = {
    "mon.": ("mon", "allow *"),
    "client.admin": ("mon", "allow *", "osd", "allow *", "mgr", "allow *"),
    "mgr.x": ("mon", "allow profile mgr", "osd", "allow *"),
    "osd.0": ("mon", "allow profile osd", "mgr", "allow profile osd", "osd", "allow *"),
}


@contextmanager
def run_rgw(folder: Path, memory: int = 4 << 30) -> Iterator[S3Service]:
    """Run radosgw below `folder`, which has room for `memory` bytes; skips the test where it is not installed."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"Ceph's radosgw, an S3 service of these tests, is not installed: there is no {missing[0]}")
    with ExitStack() as stack:
        yield _Cluster(folder, memory, stack).start()


class _Cluster:
    """A monitor, a manager, one object storage daemon, and the gateway."""

    def __init__(self, folder: Path, memory: int, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._mon, self._port = free_ports(2)
        self._fsid = str(uuid.uuid4())
        for name in ("mon", "mgr", "osd", "rgw"):
            (folder / name).mkdir(parents=True)
        self._conf = folder / "ceph.conf"
        self._conf.write_text(
            CEPH_CONF.format(fsid=self._fsid, mon=self._mon, port=self._port, folder=folder, memory=memory)
        )

    def start(self) -> S3Service:
        self._make_monitor()
        self._serve("ceph-mon", "-i", "a")
        self._run("ceph", "-s")
        self._serve("ceph-mgr", "-i", "x")
        osd = str(uuid.uuid4())
        self._run("ceph", "osd", "new", osd)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._serve("ceph-osd", "-i", "0")
        gateway = self._serve("radosgw", "-n", "client.admin")
        keys = ("--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
        self._run("radosgw-admin", "user", "create", "--uid=tests", "--display-name=tests", *keys)
        endpoint = f"http://127.0.0.1:{self._port}"
        self._wait_for(endpoint, gateway)
        return S3Service(endpoint, ACCESS_KEY, SECRET_KEY)

    def _make_monitor(self) -> None:
        keyring, monmap = str(self._folder / "keyring"), str(self._folder / "monmap")
        for number, (name, caps) in enumerate(KEYS.items()):
            create = () if number else ("--create-keyring",)
            pairs = zip(caps[::2], caps[1::2], strict=True)
            given = [word for what, may in pairs for word in ("--cap", what, may)]
            self._run("ceph-authtool", keyring, *create, "--gen-key", "-n", name, *given, conf=False)
        address = f"[v2:127.0.0.1:{self._mon}]"
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", address, monmap, conf=False)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)

    def _run(self, *command: str, conf: bool = True) -> None:
        words = [command[0], *(("-c", str(self._conf)) if conf else ()), *command[1:]]
        done = subprocess.run(words, env=self._environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr[-2000:]}"

    def _serve(self, *command: str) -> "subprocess.Popen[bytes]":
        words = [command[0], "-c", str(self._conf), *command[1:], "-f"]
        log = self._stack.enter_context((self._folder / f"{command[0]}.out").open("wb"))
        server = subprocess.Popen(words, env=self._environ, stdout=log, stderr=subprocess.STDOUT)
        self._stack.callback(stop, server)
        return server

    @property
    def _environ(self) -> dict[str, str]:
        return {**os.environ, "CEPH_CONF": str(self._conf)}

    def _wait_for(self, endpoint: str, gateway: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and gateway.poll() is None:
            try:
                urllib.request.urlopen(endpoint, timeout=10).close()
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
            else:
                return
        raise RuntimeError(f"radosgw did not start: {(self._folder / 'radosgw.out').read_text()[-2000:]}")
