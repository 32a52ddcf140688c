"""What the check lets pass, ultralytics reads whole: it drops a picture without more than a line in its log."""

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from drawing import KEYPOINTS, NAMES, ROWS, description_for, picture
from trainer.contract.tasks import TaskType
from trainer.dataset.checking import check
from trainer.dataset.images import check_picture
from trainer.dataset.walking import Candidate

CASES = 300
READ = """
import json, sys
from ultralytics.data.utils import verify_image_label
folder, cases, classes, keypoints, dimensions = sys.argv[1], *map(int, sys.argv[2:])
results = []
for case in range(cases):
    places = f"{folder}/images/train/{case}.jpg", f"{folder}/labels/train/{case}.txt"
    result = verify_image_label((*places, "", keypoints > 0, classes, keypoints, dimensions, False))
    results.append(None if result[0] is None else len(result[1]))
print(json.dumps(results))
"""
ODD = [
    "-0.005",
    "1.005",
    "-0.02",
    "1.02",
    "0",
    "1",
    "2",
    "nan",
    "inf",
    "1e400",
    "-1",
    "0.5",
    "0.25",
    ".5",
    "5e-1",
    "x",
    "",
]


def label(rng: random.Random, task: TaskType) -> str:
    """Rows of the task, in most cases with a few values, rows or bytes that may be wrong."""
    rows = [row.split(" ") for row in rng.choices(ROWS[task], k=rng.randint(0, 4))]
    for row in rows:
        row[1:] = [
            f"{min(1.0, float(value) + rng.uniform(0, 0.01)):.6f}" if "." in value else value for value in row[1:]
        ]
        if rng.random() < 0.4:
            row[rng.randrange(len(row))] = rng.choice(ODD)
        if rng.random() < 0.05:
            row.append(rng.choice(ODD))
    if rows and rng.random() < 0.2:
        rows.append(list(rows[0]))
    if rng.random() < 0.1:
        rows.append(rng.choice(ROWS[rng.choice(list(ROWS))]).split(" "))
    text = rng.choice(["\n", "\r\n", "\n\n", "\r", " \n"]).join(rng.choice([" ", "  ", "\t"]).join(row) for row in rows)
    if text and rng.random() < 0.05:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(["\x00", "\ufeff", "\u2028", "\x0c", "\x1c", "\u0661", "_", ",", "#"]) + text[at:]
    return rng.choice(["", "", "", "\ufeff"]) + text


def run(script: str, folder: Path, *arguments: object) -> Any:
    """What a script that loads ultralytics prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), *map(str, arguments)],
        env={**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("task", ROWS)
def test_ultralytics_reads_every_label_that_passes(tmp_path: Path, task: TaskType) -> None:
    rng = random.Random(task)
    for kind in ("images", "labels"):
        (tmp_path / kind / "train").mkdir(parents=True)
    mine: list[int | None] = []
    for case in range(CASES):
        candidate = Candidate(f"images/train/{case}.jpg", "train", f"labels/train/{case}.txt")
        (tmp_path / candidate.path).write_bytes(picture(case))
        (tmp_path / f"labels/train/{case}.txt").write_text(label(rng, task), encoding="utf-8", newline="")
        checked = check(tmp_path, candidate, description_for(task))
        refused = any(finding.severity == "error" for finding in checked.findings)
        mine.append(None if refused else checked.tally.instances)
    points = (KEYPOINTS.count, KEYPOINTS.dimensions) if task is TaskType.POSE_ESTIMATION else (0, 0)
    theirs = run(READ, tmp_path, CASES, len(NAMES), *points)
    passed = {case: number for case, number in enumerate(mine) if number is not None}
    assert {case: theirs[case] for case in passed} == passed
    assert 50 < len(passed) < CASES - 50


LOOK = """
import json, sys
from pathlib import Path
from ultralytics.data.utils import check_image
from ultralytics.utils.patches import imread
sizes = {}
for path in Path(sys.argv[1], "pictures").iterdir():
    try:
        shape = check_image(str(path))[1]
        decoded = imread(str(path))
        sizes[path.name] = [*shape[::-1], *decoded.shape[1::-1]]
    except Exception:
        sizes[path.name] = None
print(json.dumps(sizes))
"""
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp"}


def damaged(rng: random.Random, kind: str) -> bytes:
    mode = rng.choice(["RGB", "L", "1", "RGBA", "CMYK", "P", "F", "I", "I;16"])
    exif = Image.Exif()
    exif[0x0112] = rng.randint(1, 8)
    size = rng.choice([(64, 48), (40, 9), (10, 10)])
    stream = io.BytesIO()
    try:
        Image.frombytes("L", size, rng.randbytes(size[0] * size[1])).convert(mode).save(stream, kind, exif=exif)
    except (OSError, ValueError):  # a mode that this kind does not have
        return picture(kind=kind, size=size)
    data = bytearray(stream.getvalue())
    match rng.choice((0, 2, 3)) if kind in ("BMP", "TIFF") else rng.randrange(4):  # OpenCV takes fewer headers
        case 0:
            del data[rng.randrange(len(data)) :]
        case 1:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 2:
            data += bytes(rng.randint(1, 9))
    return bytes(data)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")
@pytest.mark.parametrize("kind", SUFFIXES)
def test_ultralytics_opens_every_picture_that_passes_in_the_same_size(tmp_path: Path, kind: str) -> None:
    rng = random.Random(kind)
    (tmp_path / "pictures").mkdir()
    passed: dict[str, list[int]] = {}
    for case in range(CASES):
        name = f"{case}.{SUFFIXES[kind]}"
        data = damaged(rng, kind)
        (tmp_path / "pictures" / name).write_bytes(data)
        checked = check_picture(data, f".{SUFFIXES[kind]}")
        if not any(problem.severity == "error" for problem in checked.problems):
            passed[name] = [checked.width, checked.height] * 2
    theirs = run(LOOK, tmp_path)
    assert {name: theirs[name] for name in passed} == passed
    assert 50 < len(passed) < CASES - 50
