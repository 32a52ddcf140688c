"""The rules of a launch spec, and the environment made from it."""

import sys
from pathlib import Path

import pytest

from apps.executor.environment import detect_devices, trainer_environment


@pytest.mark.parametrize("name", ["", "Job-1", "job_1", "-job", "job-", "a/b", "..", "job 1", "a" * 64, "job\n"])
def test_a_name_that_is_no_label_is_refused(make_spec, name):
    with pytest.raises(ValueError, match="attempt name"):
        make_spec(name)


@pytest.mark.parametrize("grace", [-1.0, float("inf"), float("nan")])
def test_a_grace_that_is_no_length_of_time_is_refused(make_spec, grace):
    with pytest.raises(ValueError, match="grace_seconds"):
        make_spec(grace=grace)


@pytest.mark.parametrize("devices", [("0,1",), ("",)])
def test_a_device_that_is_not_one_device_is_refused(make_spec, devices):
    with pytest.raises(ValueError, match="device"):
        make_spec(devices=devices)


def test_a_secret_that_is_no_variable_is_refused(make_spec):
    with pytest.raises(ValueError, match="TOKEN"):
        make_spec(secret_names=frozenset({"TOKEN"}))


def test_the_spec_wins_over_the_machine_and_the_lease_over_both(make_spec):
    spec = make_spec(environment={"TZ": "Asia/Seoul", "CUDA_VISIBLE_DEVICES": "7"}, devices=("2",))
    made = trainer_environment({"TZ": "UTC", "HOME": "/h", "CUDA_VISIBLE_DEVICES": "1"}, spec, Path("/app"))
    assert made == {
        "JOB_ID": "1",
        "TZ": "Asia/Seoul",
        "HOME": "/h",
        "CUDA_VISIBLE_DEVICES": "2",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "PYTHONPATH": "/app",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.mark.parametrize(
    ("visible", "devices"),
    [("", ()), ("-1", ()), ("0", ("0",)), ("0, GPU-5a", ("0", "GPU-5a")), ("2,-1,3", ("2",))],
)
def test_the_platform_hands_out_the_devices_it_may_see_itself(visible, devices):
    assert detect_devices({"CUDA_VISIBLE_DEVICES": visible}) == devices


@pytest.mark.parametrize(
    ("body", "devices"),
    [("echo 0; echo 1", ("0", "1")), ("echo broken >&2; exit 9", ())],
    ids=["two", "broken"],
)
def test_nvidia_smi_is_asked_where_nothing_is_said(tmp_path, monkeypatch, body, devices):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert detect_devices({}) == devices


def test_a_machine_without_nvidia_smi_has_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert detect_devices({}) == ()


def test_the_supervisor_loads_neither_django_nor_psutil():
    import subprocess

    code = "import sys, apps.executor.supervisor; print({'django', 'psutil', 'subprocess'} & set(sys.modules))"
    root = Path(__file__).resolve().parents[2]
    answer = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert answer.stdout == "set()\n"
