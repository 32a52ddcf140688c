"""Everything one machine needs, under one process manager: web, workers, scheduler and, if wanted, MLflow's pages.

supervisord keeps them alive: a process that dies is started again. Trainers are not among them: they have
supervisors of their own, and outlive all of this.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from configparser import RawConfigParser
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from django.conf import settings

from config.health import instance_id


class ServicesError(Exception):
    """The services could not be started; the message says why and what to do."""


def running_at() -> str | None:
    """Where this very installation answers: at PLATFORM_URL, or on the port it was last started on."""
    last = _last_address_file()
    addresses = [settings.PLATFORM_URL, *([last.read_text()] if last.exists() else [])]
    return next((url for url in addresses if _answers(url)), None)


def _answers(url: str) -> bool:
    """Another installation at that address does not count."""
    try:
        answer = httpx.get(f"{url}/healthz", timeout=2)
        return answer.status_code == 200 and answer.json().get("instance") == instance_id()
    except (httpx.HTTPError, ValueError):
        return False


def _last_address_file() -> Path:
    return Path(settings.DATA_DIR / "run" / "address")


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):  # taken, not an address of this machine, or no port at all
            return False
        return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_config(*, host: str, port: int, mlflow_port: int | None, to_files: bool) -> Path:
    """Write supervisord's configuration. `to_files` sends logs to DATA_DIR/log instead of this terminal."""
    run_dir, log_dir = settings.DATA_DIR / "run", settings.DATA_DIR / "log"
    for folder in (run_dir, log_dir):
        folder.mkdir(parents=True, exist_ok=True)
    gunicorn = f"config.wsgi --bind {host}:{port} --workers 2 --threads 8 --worker-class gthread --graceful-timeout 10"
    worker = "worker --pool threads --without-gossip --without-mingle --without-heartbeat --loglevel INFO"
    programs = {
        "web": ["gunicorn", *gunicorn.split(), "--no-control-socket"],
        "worker": ["celery", "-A", "config", *worker.split(), "--queues", "celery", "--concurrency", "4"],
        # Imports one after the other, and never in the way of what starts and stops trainings.
        "importer": [
            *["celery", "-A", "config", *worker.split(), "--queues", "imports", "--concurrency", "1"],
            *["--prefetch-multiplier", "1", "--hostname", "importer@%h"],
        ],
        "scheduler": [
            "celery",
            "-A",
            "config",
            "beat",
            "--schedule",
            f"{run_dir}/beat",
            "--pidfile=",
            "--loglevel",
            "INFO",
        ],
    }
    if mlflow_port is not None:
        places = ["--backend-store-uri", settings.MLFLOW_TRACKING_URI]
        places += ["--artifacts-destination", f"{settings.DATA_DIR}/mlflow/artifacts"]
        programs["mlflow"] = ["mlflow", "server", *places, *f"--host {host} --port {mlflow_port} --workers 1".split()]
    config = RawConfigParser()
    config["supervisord"] = {
        "nodaemon": "true",
        "logfile": str(log_dir / "supervisord.log"),
        "logfile_maxbytes": "1MB",
        "pidfile": str(run_dir / f"supervisord-{port}.pid"),
        "childlogdir": str(log_dir),
        "silent": "true" if to_files else "false",
        **({"user": "root"} if os.geteuid() == 0 else {}),
    }
    for name, words in programs.items():
        # Quoted word by word: folders have spaces in their names.
        command = shlex.join([sys.executable, "-m", *words])
        config[f"program:{name}"] = _program(command, log_dir / f"{name}.log" if to_files else None, port)
    _last_address_file().write_text(_address(port))
    path = Path(run_dir / f"supervisord-{port}.conf")
    with path.open("w") as file:
        config.write(file)
    return path


def _program(command: str, log: Path | None, port: int) -> dict[str, str]:
    python_path = f"{settings.BASE_DIR / 'platform'}:{settings.BASE_DIR}"
    # Trainers here call back to this very port; an address that others reach (a proxy's) is left alone.
    local = urlsplit(settings.PLATFORM_URL).hostname in ("localhost", "127.0.0.1")
    url = _address(port) if local else settings.PLATFORM_URL
    return {
        "command": command.replace("%", "%%"),
        "directory": str(settings.BASE_DIR),
        "environment": f'PYTHONPATH="{python_path}",PLATFORM_URL="{url}",PYTHONUNBUFFERED="1"'.replace("%", "%%"),
        "autorestart": "true",
        "startretries": "1000",
        "startsecs": "1",
        "stopasgroup": "true",
        "killasgroup": "true",
        "stopwaitsecs": "15",
        "redirect_stderr": "true",
        "stdout_logfile": str(log or "/dev/fd/1"),
        "stdout_logfile_maxbytes": "10MB" if log else "0",
        "stdout_logfile_backups": "1",
    }


def _address(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def supervisord_command(config: Path) -> list[str]:
    return [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(config)]


@contextmanager
def running() -> Iterator[str]:
    """Have web, workers and scheduler running while inside; yields the platform's address.

    Those that run already are used and left running; otherwise they are started here, and stopped at the end.

    Raises:
        ServicesError: they did not come up; says where their logs are.
    """
    if there := running_at():
        yield there
        return
    for number in (signal.SIGHUP, signal.SIGTERM):  # a closed terminal must not leave them running unseen
        signal.signal(number, lambda received, frame: sys.exit(128 + received))
    wanted = urlsplit(settings.PLATFORM_URL).port or 80
    port = wanted if port_is_free(wanted) else free_port()
    config = write_config(host="127.0.0.1", port=port, mlflow_port=None, to_files=True)
    # A session of its own: Ctrl-C reaches us, and we stop it in order.
    manager = subprocess.Popen(supervisord_command(config), start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        _wait_until_up(manager, _address(port))
        yield _address(port)
    finally:
        manager.send_signal(signal.SIGTERM)
        try:
            manager.wait(30)
        except subprocess.TimeoutExpired:
            manager.kill()


def _wait_until_up(manager: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and manager.poll() is None:
        if _answers(url):
            return
        time.sleep(0.2)
    raise ServicesError(
        f"The platform did not come up at {url}. Look at {settings.DATA_DIR / 'log'}/web.log and supervisord.log there."
    )
