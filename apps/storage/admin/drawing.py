"""Labels as SVG over their picture.

The drawing's units are such that the picture's longer side has `longest` of them, so that text and dots look alike on
every picture. Strokes keep their width on the screen (`vector-effect` in the style sheet).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

Point = tuple[float, float]

THUMBNAIL, LARGE = 320.0, 1000.0
_NAMED_ON_A_THUMBNAIL = 12  # more names than that hide the picture
_DRAWN = {THUMBNAIL: 300, LARGE: 3000}

# The seventeen keypoints of a person in their usual order: pairs that a bone joins.
_PERSON = (
    *((0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10)),
    *((5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16)),
)


@dataclass(frozen=True)
class Shape:
    """One labelled object, in shares of width and height. `dots` has None for a keypoint that is not labelled."""

    class_id: int
    outline: Sequence[Point]
    dots: Sequence[Point | None] = ()


def colour_of(class_id: int) -> str:
    """The same for a class on every page; neighbours in the list of classes differ most."""
    hue = class_id * 137.508 % 360
    light = (62, 50, 72)[class_id // 7 % 3]
    return f"hsl({hue:.0f} 90% {light}%)"


def _text_colour_of(class_id: int) -> str:
    """The class's hue, light enough to be read on its dark rim."""
    return f"hsl({class_id * 137.508 % 360:.0f} 100% 82%)"


def name_of(class_id: int, names: Sequence[str]) -> str:
    return names[class_id] if 0 <= class_id < len(names) else f"#{class_id}"


def thumbnail(shapes: Sequence[Shape], names: Sequence[str], width: int, height: int) -> SafeString:
    """What is drawn over a small picture: one path a class, and names where they are few."""
    canvas = _Canvas(width, height, THUMBNAIL)
    by_class: dict[int, list[Shape]] = defaultdict(list)
    for shape in shapes[: _DRAWN[THUMBNAIL]]:
        by_class[shape.class_id].append(shape)
    parts = [_group(canvas, class_id, group, name_of(class_id, names)) for class_id, group in by_class.items()]
    if len(shapes) <= _NAMED_ON_A_THUMBNAIL:
        parts += [_name(canvas, shape, name_of(shape.class_id, names), 13) for shape in shapes]
    return canvas.svg(parts)


def large(shapes: Sequence[Shape], names: Sequence[str], width: int, height: int) -> SafeString:
    """What is drawn over a large picture: each object on its own, by its number in the list beside it."""
    canvas = _Canvas(width, height, LARGE)
    parts = []
    for index, shape in enumerate(shapes[: _DRAWN[LARGE]]):
        name = name_of(shape.class_id, names)
        drawn = _group(canvas, shape.class_id, [shape], name) + _name(canvas, shape, name, 18)
        parts.append(f'<g data-instance="{index}">{drawn}</g>')
    return canvas.svg(parts)


def left_out(shapes: Sequence[Shape], longest: float = THUMBNAIL) -> int:
    """How many objects are not drawn."""
    return max(len(shapes) - _DRAWN[longest], 0)


class _Canvas:
    def __init__(self, width: int, height: int, longest: float) -> None:
        scale = longest / max(width, height, 1)
        self.width, self.height, self.longest = width * scale, height * scale, longest

    def at(self, point: Point) -> str:
        return f"{point[0] * self.width:.1f} {point[1] * self.height:.1f}"

    def svg(self, parts: Iterable[str]) -> SafeString:
        box = f"0 0 {self.width:.1f} {self.height:.1f}"
        drawn = "".join(parts)
        # Names of classes were escaped where they were put in; all else is numbers.
        return mark_safe(f'<svg class="ty-overlay" viewBox="{box}" aria-hidden="true">{drawn}</svg>')  # noqa: S308


def _group(canvas: _Canvas, class_id: int, shapes: Iterable[Shape], name: str) -> str:
    outlines, bones, dots = [], [], []
    for shape in shapes:
        if shape.outline:
            outlines.append("M" + "L".join(map(canvas.at, shape.outline)) + "Z")
        dots += [f"M{canvas.at(dot)}h0" for dot in shape.dots if dot]
        bones += [f"M{canvas.at(a)}L{canvas.at(b)}" for a, b in _bones(shape.dots)]
    colour = colour_of(class_id)
    drawn = f'<path class="ty-outline" d="{"".join(outlines)}" fill="{colour}"/>' if outlines else ""
    drawn += f'<path class="ty-bone" d="{"".join(bones)}"/>' if bones else ""
    drawn += f'<path class="ty-dots" d="{"".join(dots)}"/>' if dots else ""
    return f'<g stroke="{colour}"><title>{escape(name)}</title>{drawn}</g>'


def _bones(dots: Sequence[Point | None]) -> list[tuple[Point, Point]]:
    if len(dots) != 17:
        return []
    pairs = [(dots[first], dots[second]) for first, second in _PERSON]
    return [(first, second) for first, second in pairs if first and second]


def _name(canvas: _Canvas, shape: Shape, name: str, size: int) -> str:
    """Above the object's upper left corner, or below it where the picture ends there."""
    points = [*shape.outline, *(dot for dot in shape.dots if dot)]
    if not points:
        return ""
    left, right = min(x for x, _y in points), max(x for x, _y in points)
    near_the_edge = left > 0.6
    across = min(max(right if near_the_edge else left, 0.0), 1.0) * canvas.width
    anchor = ' text-anchor="end"' if near_the_edge else ""
    top = min(max(min(y for _x, y in points), 0.0), 1.0) * canvas.height
    baseline = top - 3 if top > size + 2 else min(top + size, canvas.height - 2)
    short = name if len(name) <= 24 else name[:23] + "…"
    return (
        f'<text class="ty-name" x="{across:.1f}" y="{baseline:.1f}" font-size="{size}"{anchor} '
        f'fill="{_text_colour_of(shape.class_id)}">{escape(short)}</text>'
    )
