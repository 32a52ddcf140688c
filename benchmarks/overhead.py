"""What the platform costs over plain `yolo train`: the same arguments on the same data, side by side in one run.

    make bench EPOCHS=12 PAIRS=3

Each pair trains once with ultralytics' own command line and once through the platform (submitted, dispatched by
Celery, launched by the executor, reporting to the callback, recording in MLflow, storing its checkpoints), in
alternating order. The plain run has ultralytics' integrations switched off too, so it is as lean as it can be. Ratios
are pair by pair; memory is sampled from /proc the same way on both sides.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Run:
    """One training: seconds from start to end of its process, and peak memory in MiB (process, and its whole tree)."""

    wall: float
    peak: float
    peak_tree: float
    submitted_to_ended: float = 0.0
    map50: float = 0.0


class MemorySampler:
    """Peak memory of a process and of its tree, in MiB. The process's own peak is the kernel's count."""

    def __init__(self, pid: int) -> None:
        import psutil

        self._process = psutil.Process(pid)
        self.peak = self.peak_tree = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        import psutil

        while not self._ended.wait(0.2):
            try:
                status = Path(f"/proc/{self._process.pid}/status").read_text()
                high_water = next((line for line in status.splitlines() if line.startswith("VmHWM")), None)
                if high_water:
                    self.peak = max(self.peak, int(high_water.split()[1]) / 1024)
                tree = [self._process, *self._process.children(recursive=True)]
                self.peak_tree = max(self.peak_tree, sum(p.memory_info().rss for p in tree) / 2**20)
            except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                continue


def main() -> None:
    options = _options()
    # A scratch installation: a benchmark leaves nothing behind in the real one.
    scratch = Path(tempfile.mkdtemp(prefix="trainyard-bench-"))
    os.environ["DATA_DIR"] = str(scratch / "var")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    sys.path[:0] = [str(ROOT), str(ROOT / "platform")]
    import django

    django.setup()
    from config import local_services

    bench = Bench(scratch, options.epochs)
    pairs: list[tuple[Run, Run]] = []
    with local_services.running():
        for number in range(options.pairs):
            order = (bench.plain, bench.platform) if number % 2 == 0 else (bench.platform, bench.plain)
            first, second = order[0](), order[1]()
            plain, ours = (first, second) if number % 2 == 0 else (second, first)
            pairs.append((plain, ours))
            _show_pair(number + 1, plain, ours)
    _summarise(pairs, options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="Write all figures to this file too")
    return parser.parse_args()


class Bench:
    def __init__(self, scratch: Path, epochs: int) -> None:
        from apps.projects.models import Project
        from apps.storage.sample import draw_sample
        from apps.storage.services import import_folder
        from config import setting_up
        from config.management.commands.demo import TRAINING

        setting_up.prepare()
        self.scratch = scratch
        self.user, _ = setting_up.ensure_admin()
        self.project = Project.objects.create(name="Bench")
        self.folder = scratch / "shapes"
        draw_sample(self.folder)
        self.version = import_folder(
            self.folder, project=self.project, name="shapes", task_type="object_detection", by=self.user
        )
        self.training = {**TRAINING, "epochs": epochs}

    def plain(self) -> Run:
        """ultralytics' own command line, in an environment as quiet as ours."""
        home = Path(tempfile.mkdtemp(prefix="plain-", dir=self.scratch))
        environ = os.environ | {
            "YOLO_CONFIG_DIR": str(home / "config"),
            "MPLCONFIGDIR": str(home / "config/matplotlib"),
        }
        environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
        arguments = self._prepare(home, environ)
        command = [str(Path(sys.executable).with_name("yolo")), "train", *(f"{k}={v}" for k, v in arguments.items())]
        with (home / "log").open("w") as log:
            began = time.monotonic()
            process = subprocess.Popen(command, cwd=home, env=environ, stdout=log, stderr=log)
            sampler = MemorySampler(process.pid)
            code = process.wait()
            wall = time.monotonic() - began
        sampler.stop()
        assert code == 0, f"yolo train failed; see {home / 'log'}"
        return Run(wall, sampler.peak, sampler.peak_tree)

    def _prepare(self, home: Path, environ: dict[str, str]) -> dict[str, Any]:
        """Settings with every integration off, and the arguments that the trainer itself would use."""
        job = self._submit_values()
        script = (
            "import json, sys; from pathlib import Path; from trainer import yolo;"
            "from trainer.contract.variables import TrainerEnvironment;"
            "home, folder, values = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]);"
            "yolo.quieten(home / 'config'); yolo.load();"
            "from trainer.dataset.layout import Description, write_ultralytics_data;"
            "told = Description(values['TASK_TYPE'], tuple(json.loads(sys.argv[4])));"
            "data = write_ultralytics_data(folder, told, home / 'data.yaml');"
            "print('ARGUMENTS', json.dumps(yolo.arguments("
            "TrainerEnvironment.model_validate(values), data, None, home / 'run')))"
        )
        command = [sys.executable, "-c", script, str(home), str(self.folder), json.dumps(job)]
        command.append(json.dumps(self.version.class_names))
        output = subprocess.run(
            command, env=environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
        )
        line = next(line for line in output.stdout.splitlines() if line.startswith("ARGUMENTS "))
        # The labels cache is new on both sides: the platform's trainer fetches into a cache of its own.
        for cache in self.folder.rglob("*.cache"):
            cache.unlink()
        arguments: dict[str, Any] = json.loads(line.removeprefix("ARGUMENTS "))
        return arguments

    def _submit_values(self) -> dict[str, Any]:
        upper = {name.upper(): value for name, value in self.training.items()}
        return upper | {
            "JOB_ID": 1,
            "PROJECT_ID": "bench",
            "DATASET_ID": str(self.version.dataset_id),
            "DATASET_SHA256": self.version.sha256,
            "STORAGE_TYPE": "local",
            "LOCAL_STORAGE_ROOT": "/nowhere",
        }

    def platform(self) -> Run:
        """The whole way: submit, dispatch, launch, train, report, store."""
        import shutil

        from django.conf import settings

        from apps.executor import records
        from apps.jobs import services
        from apps.jobs.models import Job

        shutil.rmtree(settings.CACHE_DIR / "datasets", ignore_errors=True)  # cold, as the plain run's labels are
        began = time.monotonic()
        job = services.submit(project=self.project, dataset=self.version, by=self.user, **self.training)
        sampler: MemorySampler | None = None
        while True:
            job = Job.objects.get(pk=job.pk)
            attempt = job.current_attempt
            folder = settings.ATTEMPTS_ROOT / attempt.name if attempt else None
            if sampler is None and folder and (process := records.read_process(str(folder))):
                sampler = MemorySampler(process["trainer"]["pid"])
            if job.ended:
                break
            time.sleep(0.05)
        took = time.monotonic() - began
        assert job.state == "succeeded", f"{job} {job.state}: {job.end_message}"
        assert folder is not None
        assert sampler is not None
        while (ended := records.read_exit(str(folder))) is None:
            time.sleep(0.05)
        sampler.stop()
        process = records.read_process(str(folder))
        assert process is not None
        return Run(
            wall=_seconds_between(process["started_at"], ended["ended_at"]),
            peak=sampler.peak,
            peak_tree=sampler.peak_tree,
            submitted_to_ended=took,
            map50=job.best_metrics.get("metrics/mAP50(B)") or 0.0,
        )


def _seconds_between(first: str, second: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()


def _show_pair(number: int, plain: Run, ours: Run) -> None:
    print(
        f"pair {number}: plain {plain.wall:.1f} s, {plain.peak:.0f} MiB | trainer {ours.wall:.1f} s, "
        f"{ours.peak:.0f} MiB (tree {ours.peak_tree:.0f}), submitted to ended {ours.submitted_to_ended:.1f} s, "
        f"mAP50 {ours.map50:.3f}",
        flush=True,
    )


def _summarise(pairs: list[tuple[Run, Run]], path: Path | None) -> None:
    ratios = {
        "trainer's wall time / plain": [ours.wall / plain.wall for plain, ours in pairs],
        "submitted to ended / plain": [ours.submitted_to_ended / plain.wall for plain, ours in pairs],
        "trainer's peak memory / plain": [ours.peak / plain.peak for plain, ours in pairs],
        "peak memory with the MLflow recorder / plain": [ours.peak_tree / plain.peak_tree for plain, ours in pairs],
    }
    print(f"\n{'ratio':46} {'median':>7} {'min':>7} {'max':>7}")
    for name, values in ratios.items():
        print(f"{name:46} {statistics.median(values):7.3f} {min(values):7.3f} {max(values):7.3f}")
    if path:
        path.write_text(json.dumps({"pairs": [[asdict(a), asdict(b)] for a, b in pairs], "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
