"""What an image holds: the web image has no torch and the trainer image no Django, and each has all that it needs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "var" / "tools"

LOAD_THE_PLATFORM = """
import sys
sys.path[:0] = ["platform", "."]
import django
django.setup()
import apps.jobs.reconciliation, config.management.commands.runtrainer, config.management.commands.demo
from django.core.management import call_command
call_command("check")
heavy = {"torch", "ultralytics"} & sys.modules.keys()
assert not heavy, heavy
"""

LOAD_THE_TRAINER = """
import sys
import trainer.run, trainer.store_s3, trainer.recorder
from trainer import yolo
yolo.load()
from ultralytics.models.yolo.detect import DetectionTrainer
from mlflow import MlflowClient
assert "django" not in sys.modules
"""


def _locked(name: str) -> set[str]:
    lines = (ROOT / "locks" / f"{name}.lock").read_text().splitlines()
    return {line.partition("==")[0] for line in lines if "==" in line and not line.startswith((" ", "#"))}


def test_the_web_lock_has_no_torch_and_the_trainer_lock_no_django() -> None:
    assert not {name for name in _locked("web") if name.startswith(("torch", "ultralytics", "nvidia-"))}
    assert not {name for name in _locked("trainer") if name.startswith(("django", "celery", "unfold"))}


def test_the_images_hold_the_versions_that_are_tested() -> None:
    def versions(name: str) -> set[str]:
        lines = (ROOT / "locks" / f"{name}.lock").read_text().splitlines()
        return {line.split(" ")[0] for line in lines if "==" in line and not line.startswith((" ", "#"))}

    assert versions("web") | versions("trainer") <= versions("dev")


def test_no_lock_names_a_host() -> None:
    for lock in (ROOT / "locks").glob("*.lock"):
        for line in lock.read_text().splitlines():
            assert "://" not in line, f"{lock.name}: {line}"
            assert "index-url" not in line, f"{lock.name}: {line}"


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("image", "program"), [("web", LOAD_THE_PLATFORM), ("trainer", LOAD_THE_TRAINER)])
def test_an_image_has_all_that_its_program_needs(image: str, program: str, tmp_path: Path) -> None:
    home = TOOLS / f"{image}-image"
    uv = shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
    python = home / "bin" / "python"
    for command in (
        ["venv", "--quiet", "--allow-existing", "--python", sys.executable, str(home)],
        ["pip", "sync", "--quiet", "--python", str(python), "--require-hashes", f"locks/{image}.lock"],
    ):
        subprocess.run([uv, *command], check=True, cwd=ROOT)
    environ = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "config.settings"}
    environ |= {"YOLO_CONFIG_DIR": str(tmp_path), "YOLO_OFFLINE": "true", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(python), "-c", program], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
