"""Labels: one row of numbers an object. `trainer.dataset.layout` shows how the tasks write theirs.

What a row may hold follows what ultralytics accepts, because it drops a picture with all its labels, and says so only
in its log, for one row that it does not take:

- Numbers may leave 0 to 1 by a hundredth. Of polygons and oriented boxes, this is asked of the box around them alone:
  published data has corners outside the picture.
- A keypoint further outside is refused even where it is marked as not visible.
- A file mixes boxes with polygons for no task. A polygon is wrong in a detection dataset: importing writes its box.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from trainer.contract.tasks import TaskType
from trainer.dataset.layout import DATA_YAML, Description, Keypoints

Point = tuple[float, float]
Box = tuple[float, float, float, float]

TOLERANCE = 0.01
_MOST_CLASSES = 1 << 31  # what a database keeps

_NOT_IN_NUMBERS = re.compile(r"[^\t\n\r -~]|_")  # Python reads Arabic digits and 1_000, ultralytics' reader does not


class Instance(NamedTuple):
    """One labelled object, in shares (0 to 1) of the picture's width and height.

    `box` is centre x, centre y, width, height; around a polygon, where the label is one. `points` are the polygon, the
    four corners or the keypoints, by task. `visible` goes with keypoints: 0 not labelled, 1 hidden, 2 visible.
    """

    class_id: int
    box: Box
    points: tuple[Point, ...] = ()
    visible: tuple[int, ...] = ()

    @property
    def area(self) -> float:
        return self.box[2] * self.box[3]

    def reaches_out(self, *, outline: bool) -> bool:
        """Whether it leaves the picture. `outline`: its points are its outline, and no keypoints."""
        x, y, width, height = self.box
        edges: Sequence[Point] = ((x - width / 2, y - height / 2), (x + width / 2, y + height / 2))
        return not all(map(_is_inside, self.points if outline else edges))


class RowError(ValueError):
    """A row that cannot be used. `code` is its finding's; `looks_like` is the task that it may have been made for."""

    def __init__(self, code: str, message: str, looks_like: TaskType | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.looks_like = looks_like


def rows_of(text: str) -> Iterator[tuple[int, str]]:
    """The rows that are not blank, with the number of their line."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for line, row in enumerate(lines, start=1):
        if row and not row.isspace():
            yield line, row


def parse(text: str, description: Description) -> list[Instance]:
    """The objects of a label file, for drawing: rows that cannot be used are passed over."""
    instances = []
    for _line, row in rows_of(text):
        try:
            instances.append(parse_row(row, description))
        except RowError:
            continue
    return instances


def parse_row(row: str, description: Description) -> Instance:
    """Read one row strictly. Raises RowError."""
    read = _READERS.get(description.task_type)
    if read is None:
        raise RowError("label_malformed", "This task has no labels: the folder is the class.")
    fields = row.split()
    try:
        numbers = list(map(float, fields))
    except ValueError:
        raise _not_numbers(row) from None
    if _NOT_IN_NUMBERS.search(row):
        raise _not_numbers(row)
    return read(_class_id(fields[0], numbers[0], len(description.class_names)), numbers, description.keypoints)


def _not_numbers(row: str) -> RowError:
    """Names the first value that is none, and what to do about it."""
    fields = row.split()
    bad = next((number for number, field in enumerate(fields, start=1) if not _is_number(field)), None)
    if bad is None:  # it is between the numbers
        message = f"There are strange characters in {row[:60]!a}. Write plain numbers with spaces between them."
        return RowError("label_malformed", message)
    field = fields[bad - 1]
    fix = "Write numbers with digits and a point."
    if "," in field and len(fields) == 1:
        fix = "Separate the numbers by spaces, and write them with a point."
    elif bad == 1 and any(map(str.isalpha, field)):
        fix = "Write the class as its id, from 0."
    return RowError("label_malformed", f"Value {bad} is no number: {field[:30]!a}. {fix}")


def _is_number(field: str) -> bool:
    if _NOT_IN_NUMBERS.search(field):
        return False
    try:
        float(field)
    except ValueError:
        return False
    return True


def _class_id(field: str, number: float, classes: int) -> int:
    """`classes` is 0 where data.yaml is broken: its own finding says so, and any id that can be kept passes."""
    most = classes or _MOST_CLASSES
    if not (math.isfinite(number) and number == int(number) and 0 <= number < most):
        if classes:
            what = f"Class id {field[:20]} is not one of the dataset's classes (0 to {classes - 1})"
            message = f"{what}. Correct it or add the class."
        else:
            message = f"{field[:20]} is no class id: ids are whole numbers from 0. Correct it."
        raise RowError("class_out_of_range", message)
    return int(number)


def _detection(class_id: int, numbers: Sequence[float], _keypoints: Keypoints | None) -> Instance:
    if len(numbers) != 5:
        want = "Write: class id, centre x, centre y, width, height."
        more = " A polygon is for segmentation: write its box." if len(numbers) > 6 else ""
        raise _count_error(f"{len(numbers)} values where a box has 5. {want}{more}", len(numbers))
    return Instance(class_id, _box(numbers))


def _segmentation(class_id: int, numbers: Sequence[float], _keypoints: Keypoints | None) -> Instance:
    if len(numbers) < 7 or len(numbers) % 2 == 0:
        want = "Write: class id, then x and y of three points or more."
        more = " Boxes are for detection." if len(numbers) == 5 else ""
        raise _count_error(f"{len(numbers)} values, which are no polygon. {want}{more}", len(numbers))
    return _outlined(class_id, numbers)


def _oriented(class_id: int, numbers: Sequence[float], _keypoints: Keypoints | None) -> Instance:
    if len(numbers) != 9:
        want = "Write: class id, then x and y of the four corners in order."
        raise _count_error(f"{len(numbers)} values where an oriented box has 9. {want}", len(numbers))
    return _outlined(class_id, numbers)


def _pose(class_id: int, numbers: Sequence[float], keypoints: Keypoints | None) -> Instance:
    if keypoints is None:
        raise RowError("label_malformed", f"{DATA_YAML} does not say how many keypoints there are. Add 'kpt_shape'.")
    count, dimensions = keypoints.count, keypoints.dimensions
    if len(numbers) != 5 + count * dimensions:
        want = f"a box and {count} keypoints of {dimensions} values have {5 + count * dimensions}"
        fix = "Write all keypoints, with 0 0 0 for one that is not labelled, or correct 'kpt_shape'."
        raise _count_error(f"{len(numbers)} values, but {want}. {fix}", len(numbers), code="keypoint_count")
    box = _box(numbers)
    points = tuple(zip(numbers[5::dimensions], numbers[6::dimensions], strict=True))
    if not all(map(_is_inside, points)):
        fix = "Correct it; write 0 0 0 for a keypoint that cannot be seen."
        raise RowError("keypoint_outside", f"A keypoint lies outside of the picture. {fix}")
    visible = tuple(numbers[7::3]) if dimensions == 3 else ()
    if not all(value in (0, 1, 2) for value in visible):
        message = "The third value of a keypoint must be 0 (not labelled), 1 (hidden) or 2 (visible). Correct it."
        raise RowError("keypoint_visibility", message)
    return Instance(class_id, box, points, tuple(map(int, visible)))


def _box(numbers: Sequence[float]) -> Box:
    x, y, width, height = numbers[1:5]
    if not (min(x, y) >= -TOLERANCE and max(x, y, width, height) <= 1 + TOLERANCE and min(width, height) >= 0):
        raise _not_normalised()
    if not math.isfinite(x + y + width + height):  # comparisons with NaN depend on their order
        raise _not_normalised()
    if width == 0 or height == 0:
        raise RowError("box_empty", "It has no width or no height. Correct it or remove the row.")
    return x, y, width, height


def _outlined(class_id: int, numbers: Sequence[float]) -> Instance:
    if not all(map(math.isfinite, numbers)):
        raise _not_normalised()
    xs, ys = numbers[1::2], numbers[2::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    box = _box((class_id, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top))
    return Instance(class_id, box, tuple(zip(xs, ys, strict=True)))


def _not_normalised() -> RowError:
    fix = "Divide x and width by the picture's width, y and height by its height."
    return RowError("coordinates_not_normalised", f"Coordinates must lie in 0 to 1. {fix}")


def _is_inside(point: Point) -> bool:
    return -TOLERANCE <= point[0] <= 1 + TOLERANCE and -TOLERANCE <= point[1] <= 1 + TOLERANCE


def _count_error(message: str, values: int, *, code: str = "label_malformed") -> RowError:
    looks_like = None
    if values == 5:
        looks_like = TaskType.OBJECT_DETECTION
    elif values == 9:
        looks_like = TaskType.ORIENTED_DETECTION
    elif values > 6:
        looks_like = TaskType.INSTANCE_SEGMENTATION if values % 2 else TaskType.POSE_ESTIMATION
    return RowError(code, message, looks_like)


def outline_area(points: Sequence[Point]) -> float:
    """The area that a polygon encloses, as a share of the picture's. Where its sides cross, parts cancel out."""
    following = (*points[1:], points[0])
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(points, following, strict=True))) / 2


_READERS: Mapping[TaskType, Callable[[int, Sequence[float], Keypoints | None], Instance]] = {
    TaskType.OBJECT_DETECTION: _detection,
    TaskType.INSTANCE_SEGMENTATION: _segmentation,
    TaskType.ORIENTED_DETECTION: _oriented,
    TaskType.POSE_ESTIMATION: _pose,
}
