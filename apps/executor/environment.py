"""What a trainer's process is given: a few variables of the machine, its own, and its devices."""

import logging
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from apps.executor.base import LaunchSpec

logger = logging.getLogger(__name__)

# What a program needs of the machine it runs on. Everything else, above all the platform's own secrets,
# stays with the platform.
_INHERITED = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_CACHE_HOME",
    "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
})  # fmt: skip
_INHERITED_PREFIXES = ("LC_", "NVIDIA_", "NCCL_")

_NVIDIA_SMI_SECONDS = 10.0


def trainer_environment(machine: Mapping[str, str], spec: LaunchSpec, pythonpath: Path) -> dict[str, str]:
    """The trainer's whole environment, made from the platform process's own (`machine`) and the spec."""
    inherited = {
        name: value for name, value in machine.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    return {
        # nvidia-smi counts in this order, CUDA by itself does not.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # A log that lags behind by a buffer misses the last words of a killed trainer.
        "PYTHONUNBUFFERED": "1",
        **inherited,
        **spec.environment,
        "PYTHONPATH": str(pythonpath),
        "CUDA_VISIBLE_DEVICES": ",".join(spec.devices),
    }


def detect_devices(machine: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The GPUs of this machine that the platform may use, by index or UUID; none where it has none."""
    visible = machine.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return _ask_nvidia_smi()
    devices: list[str] = []
    for entry in visible.split(","):
        device = entry.strip()
        # As CUDA reads it: the first entry that names no device ends the list.
        if not device or device.startswith("-"):
            break
        devices.append(device)
    return tuple(devices)


def _ask_nvidia_smi() -> tuple[str, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("nvidia-smi named no GPU, so none will be used: %s", error)
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())
