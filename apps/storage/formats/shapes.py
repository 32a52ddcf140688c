"""What annotators draw, in pixels, and the row that it becomes for a task.

Rows are shares (0 to 1) of the picture's width and height, as `trainer.dataset.layout` has them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray

from trainer.contract.tasks import TaskType

Point = tuple[float, float]
Polygon = Sequence[Point]
MOST_MASK_PIXELS = 1 << 28
_DISTANCES_AT_ONCE = 1 << 20  # forty bytes each
Keypoint = tuple[float, float, int]  # x, y, visibility: 0 not labelled, 1 hidden, 2 visible


@dataclass(frozen=True)
class Shape:
    """One object as it was drawn. `box` is left, top, right, bottom; `corners` are those of a turned box, in order.

    Of what was not drawn the field is empty. `keypoints` are in the order of the dataset's.
    """

    label: str
    box: tuple[float, float, float, float] | None = None
    corners: Polygon = ()
    polygons: tuple[Polygon, ...] = ()
    keypoints: tuple[Keypoint, ...] = ()

    @property
    def kind(self) -> str:
        if self.keypoints:
            return "keypoints"
        if self.polygons:
            return "polygons"
        return "rotated boxes" if self.corners else "boxes"

    def bounds(self) -> tuple[float, float, float, float] | None:
        """The upright box around it."""
        if self.box is not None:
            return self.box
        points = [*self.corners, *(point for polygon in self.polygons for point in polygon)]
        points = points or [(x, y) for x, y, visible in self.keypoints if visible]
        if not points:
            return None
        xs, ys = [x for x, _y in points], [y for _x, y in points]
        return min(xs), min(ys), max(xs), max(ys)


class OutsideError(ValueError):
    """What is left of a shape within its picture has no area."""


@dataclass(frozen=True)
class Row:
    """The numbers after the class id, whether the shape was clipped to the picture, whether a plain box was taken."""

    values: tuple[float, ...]
    clipped: bool
    upright: bool = False


def row_of(shape: Shape, task: TaskType, width: float, height: float, keypoints: int = 0) -> Row | None:
    """The row of a shape, None where it is not of a kind that the task can use. Raises OutsideError."""
    if task is TaskType.OBJECT_DETECTION:
        # A box around keypoints is no box of the object: it is smaller.
        return None if shape.box is None and shape.keypoints else _box_row(shape, width, height)
    if task is TaskType.POSE_ESTIMATION:
        return _pose_row(shape, width, height, keypoints) if shape.keypoints else None
    if task is TaskType.INSTANCE_SEGMENTATION:
        polygons = [polygon for polygon in shape.polygons if len(polygon) >= 3]
        return _points_row(joined(polygons), width, height) if polygons else None
    return _corners_row(shape, width, height) if task is TaskType.ORIENTED_DETECTION else None


def _box_row(shape: Shape, width: float, height: float) -> Row | None:
    bounds = shape.bounds()
    if bounds is None:
        return None
    left, top, right, bottom = bounds
    kept = _clamp(left, width), _clamp(top, height), _clamp(right, width), _clamp(bottom, height)
    # A thousandth of a pixel is what rounding leaves.
    clipped = any(abs(a - b) > 1e-3 for a, b in zip(bounds, kept, strict=True))
    left, top, right, bottom = kept
    if not (right > left and bottom > top):
        raise OutsideError
    centre_x, centre_y = (left + right) / 2 / width, (top + bottom) / 2 / height
    return Row((centre_x, centre_y, (right - left) / width, (bottom - top) / height), clipped)


def _pose_row(shape: Shape, width: float, height: float, count: int) -> Row | None:
    box = _box_row(shape, width, height)
    if box is None:
        return None
    values = list(box.values)
    for x, y, visible in (*shape.keypoints, *[(0.0, 0.0, 0)] * (count - len(shape.keypoints))):
        inside = visible and -1e-3 <= x <= width + 1e-3 and -1e-3 <= y <= height + 1e-3
        values += [_clamp(x, width) / width, _clamp(y, height) / height, visible] if inside else [0, 0, 0]
    return Row(tuple(values), box.clipped)


def _corners_row(shape: Shape, width: float, height: float) -> Row | None:
    upright = False
    if shape.corners:
        corners = shape.corners
    elif shape.polygons:
        points = [point for polygon in shape.polygons for point in polygon]
        corners = points if len(points) == 4 and len(shape.polygons) == 1 else smallest_rectangle(points)
    elif shape.box is not None and not shape.keypoints:
        left, top, right, bottom = shape.box
        corners, upright = [(left, top), (right, top), (right, bottom), (left, bottom)], True
    else:
        return None
    row = _points_row(corners, width, height)
    return Row(row.values, row.clipped, upright)


def _points_row(points: Polygon, width: float, height: float) -> Row:
    kept = [(_clamp(x, width), _clamp(y, height)) for x, y in points]
    if not abs(_area(kept)) >= 1e-6:  # nor is it where a position is no number
        raise OutsideError
    clipped = any(
        abs(a - b) > 1e-3 for old, new in zip(points, kept, strict=True) for a, b in zip(old, new, strict=True)
    )
    return Row(tuple(value for x, y in kept for value in (x / width, y / height)), clipped)


def _clamp(value: float, most: float) -> float:
    return min(max(value, 0.0), most)


def _area(points: Polygon) -> float:
    closed = [*points[1:], points[0]] if points else []
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(points, closed, strict=True)) / 2


def turned_box(left: float, top: float, width: float, height: float, degrees: float, *, about: Point) -> Polygon:
    """The corners of a box turned clockwise (as seen, with y downwards) about a point."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    x0, y0 = about
    corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    return [(x0 + (x - x0) * cosine - (y - y0) * sine, y0 + (x - x0) * sine + (y - y0) * cosine) for x, y in corners]


def joined(polygons: Sequence[Polygon]) -> Polygon:
    """One outline through all parts of an object, joined where they are nearest to each other.

    A label has one outline an object. The way from one part to the next is gone back, so that it has no area.
    """
    outline = list(polygons[0])
    for polygon in polygons[1:]:
        here, there = _nearest(np.asarray(outline, float), np.asarray(polygon, float))
        tour = [*polygon[there:], *polygon[: there + 1]]
        outline = [*outline[: here + 1], *tour, *outline[here:]]
    return outline


def _nearest(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[int, int]:
    """Indices of the two nearest points, in bounded memory."""
    best, found = math.inf, (0, 0)
    step = max(1, _DISTANCES_AT_ONCE // len(second))
    for start in range(0, len(first), step):
        distances = ((first[start : start + step, None, :] - second[None, :, :]) ** 2).sum(axis=2)
        at = int(distances.argmin())
        if distances.flat[at] < best:
            best, found = float(distances.flat[at]), (start + at // len(second), at % len(second))
    return found


def smallest_rectangle(points: Iterable[Point]) -> Polygon:
    """The corners of the rectangle of least area around the points: one of its sides lies on their hull."""
    hull = _hull(points)
    if len(hull) < 3:
        raise OutsideError
    best: tuple[float, Polygon] | None = None
    for (x1, y1), (x2, y2) in zip(hull, [*hull[1:], hull[0]], strict=True):
        length = math.hypot(x2 - x1, y2 - y1)
        ux, uy = (x2 - x1) / length, (y2 - y1) / length
        along = [x * ux + y * uy for x, y in hull]
        across = [y * ux - x * uy for x, y in hull]
        a, b, c, d = min(along), max(along), min(across), max(across)
        if best is None or (b - a) * (d - c) < best[0] - 1e-9:
            corners = [(s * ux - t * uy, s * uy + t * ux) for s, t in ((a, c), (b, c), (b, d), (a, d))]
            best = (b - a) * (d - c), corners
    assert best is not None  # noqa: S101 - the hull has sides
    return best[1]


def _hull(points: Iterable[Point]) -> list[Point]:
    ordered = sorted(set(points))

    def half(sequence: Iterable[Point]) -> list[Point]:
        chain: list[Point] = []
        for x, y in sequence:
            while len(chain) > 1 and _turns_right(chain[-2], chain[-1], (x, y)):
                chain.pop()
            chain.append((x, y))
        return chain[:-1]

    return [*half(ordered), *half(reversed(ordered))]


def _turns_right(a: Point, b: Point, c: Point) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) <= 0


def mask_of(runs: Sequence[int], lines: int, length: int) -> NDArray[np.uint8]:
    """A mask of `lines` lines of `length` pixels each, of runs of background and object in turn that fill it."""
    if min(runs, default=0) < 0 or sum(runs) != lines * length:
        raise ValueError("the runs of a mask are as many pixels as it has")
    values = (np.arange(len(runs)) & 1).astype(np.uint8)
    return np.repeat(values, runs).reshape(lines, length)


def outlines(mask: NDArray[np.uint8], left: float = 0, top: float = 0) -> tuple[Polygon, ...]:
    """The outlines of a mask's parts in pixels, with its first pixel at `left`, `top`. Holes are filled."""
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), np.float32)
    padded[1:-1, 1:-1] = mask
    pieces: Any = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(0.5, np.inf)
    filled, offsets = pieces  # as OuterOffset has them
    found = []
    for points, offset in zip(filled, offsets, strict=True):
        # Values stand for the middle of pixels, and the padding has moved them by one.
        outer = points[: offset[1] - 1] - 0.5 + (left, top)
        found.append(_without_middles([(float(x), float(y)) for x, y in outer]))
    return tuple(polygon for polygon in found if len(polygon) >= 3)


def _without_middles(points: list[Point]) -> Polygon:
    """Leave out the points that lie on the line between their neighbours."""
    before, after = [points[-1], *points[:-1]], [*points[1:], points[0]]
    return [
        point
        for a, point, b in zip(before, points, after, strict=True)
        if abs((point[0] - a[0]) * (b[1] - a[1]) - (point[1] - a[1]) * (b[0] - a[0])) > 1e-6
    ]
