"""A small set of objects that every format's test expresses in its own way, and what all must come to."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from apps.storage.formats import Converted, convert
from trainer.contract.tasks import TaskType
from trainer.dataset.layout import read_description
from trainer.dataset.validation import validate

Rows = list[list[float]]


@dataclass
class Scene:
    """Two classes in a picture of 200 by 100 pixels. Positions are pixels from its upper left corner."""

    width: int = 200
    height: int = 100
    names: tuple[str, ...] = ("cat", "dog")
    # left, top, right, bottom
    boxes: tuple[tuple[str, tuple[float, ...]], ...] = (("cat", (20, 10, 60, 50)), ("dog", (100, 30, 150, 90)))
    polygons: tuple[tuple[str, tuple[tuple[float, float], ...]], ...] = (
        ("cat", ((20, 10), (60, 50), (30, 45))),
        ("dog", ((100, 30), (150, 40), (140, 90), (110, 80))),
    )
    # label, centre x, centre y, width, height, degrees clockwise
    turned: tuple[tuple[str, float, float, float, float, float], ...] = (
        ("cat", 60, 50, 40, 20, 30),
        ("dog", 140, 40, 30, 20, 0),
    )
    points: tuple[str, ...] = ("nose", "left_eye", "right_eye")
    # x, y, visibility of each point; the box around the object
    pose: tuple[tuple[float, float, int], ...] = ((40, 40, 2), (30, 20, 1), (0, 0, 0))
    pose_box: tuple[float, ...] = (20, 10, 60, 50)

    def corners(self, position: int) -> list[tuple[float, float]]:
        _label, x, y, width, height, degrees = self.turned[position]
        sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
        around = [
            (-width / 2, -height / 2),
            (width / 2, -height / 2),
            (width / 2, height / 2),
            (-width / 2, height / 2),
        ]
        return [(x + a * cosine - b * sine, y + a * sine + b * cosine) for a, b in around]

    def shares(self, points: "list[tuple[float, float]] | tuple[tuple[float, float], ...]") -> list[float]:
        return [value for x, y in points for value in (x / self.width, y / self.height)]

    def expected(self, task: TaskType) -> Rows:
        ids = {name: float(number) for number, name in enumerate(self.names)}
        if task is TaskType.OBJECT_DETECTION:
            return [[ids[label], *self._box(box)] for label, box in self.boxes]
        if task is TaskType.INSTANCE_SEGMENTATION:
            return [[ids[label], *self.shares(points)] for label, points in self.polygons]
        if task is TaskType.ORIENTED_DETECTION:
            return [[ids[one[0]], *self.shares(self.corners(at))] for at, one in enumerate(self.turned)]
        points = [value for x, y, v in self.pose for value in (x / self.width, y / self.height, v)]
        return [[0.0, *self._box(self.pose_box), *points]]

    def _box(self, box: tuple[float, ...]) -> list[float]:
        left, top, right, bottom = box
        width, height = self.width, self.height
        return [
            (left + right) / 2 / width,
            (top + bottom) / 2 / height,
            (right - left) / width,
            (bottom - top) / height,
        ]

    def row(self, values: list[float]) -> str:
        return " ".join([str(int(values[0])), *(f"{value:.8f}" for value in values[1:])])

    def label(self, task: TaskType) -> str:
        return "".join(self.row(row) + "\n" for row in self.expected(task))


@dataclass
class Result:
    """A dataset that was converted, and read again."""

    folder: Path
    converted: Converted
    progress: list[tuple[int, int]] = field(default_factory=list)

    @property
    def codes(self) -> set[str]:
        return {note.code for note in self.converted.notes}

    def note(self, code: str) -> str:
        return next(note.message for note in self.converted.notes if note.code == code)

    @property
    def images(self) -> set[str]:
        below = self.folder / "images"
        return {path.relative_to(below).as_posix() for path in below.rglob("*") if path.is_file()}

    def rows(self, name: str) -> Rows:
        text = (self.folder / "labels" / name).with_suffix(".txt").read_text()
        return [[float(value) for value in line.split()] for line in text.splitlines()]

    def is_sound(self) -> bool:
        """The check that every import passes finds no error."""
        report = validate(self.folder, self.converted.description.task_type)
        assert report.errors == []
        described, findings = read_description(self.folder, self.converted.description.task_type)
        assert findings == []
        assert described == self.converted.description
        return True


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def draw(scene: Scene) -> Callable[..., None]:
    """Write pictures of the scene's size at these paths, each of another colour."""
    made = 0

    def draw(folder: Path, *names: str) -> None:
        nonlocal made
        for name in names:
            made += 1
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            kind = "PNG" if path.suffix == ".png" else "JPEG"
            Image.new("RGB", (scene.width, scene.height), (made * 7 % 256, made * 31 % 256, 90)).save(path, kind)

    return draw


@pytest.fixture
def write() -> Callable[[Path, str], None]:
    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    return write


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    """Convert a folder, and say what came of it."""
    made = 0

    def run(folder: Path, task: TaskType = TaskType.OBJECT_DETECTION, **options: object) -> Result:
        nonlocal made
        made += 1
        told: list[tuple[int, int]] = []
        target = tmp_path / f"converted-{made}"
        done = convert(
            folder,
            target,
            task_type=task,
            progress=lambda a, b: told.append((a, b)),
            **options,  # type: ignore[arg-type]
        )
        return Result(target, done, told)

    return run
