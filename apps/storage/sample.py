"""A small labelled dataset drawn on the spot, so that a first job needs no upload and no network.

The pictures are simple on purpose: a detector with random weights learns them within a few minutes on a
CPU, so that a rising curve, and not only a finished job, shows that an installation works.
"""

import colorsys
import math
import random
from dataclasses import dataclass
from pathlib import Path

import yaml
from PIL import Image, ImageDraw, ImageOps

CLASS_NAMES = ("circle", "square", "triangle")

# Shapes are drawn at this many times the size and scaled down, which softens their edges as a lens would.
_OVERSAMPLING = 3
# A shape's half width as a share of the image's side. Smaller ones vanish in the detector's coarse grids.
_SMALLEST, _LARGEST = 0.12, 0.22
_MARGIN = 0.03
_TRIES = 30

Point = tuple[float, float]
Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class _Shape:
    """One shape, in shares (0 to 1) of the image's side."""

    class_id: int
    x: float
    y: float
    radius: float
    turn: float

    def corners(self) -> list[Point]:
        """The polygon's corners; for a circle, the two corners of its box."""
        r = self.radius
        match CLASS_NAMES[self.class_id]:
            case "circle":
                return [(self.x - r, self.y - r), (self.x + r, self.y + r)]
            case "square":
                angles = [self.turn + math.pi * (0.25 + quarter / 2) for quarter in range(4)]
            case _:
                angles = [self.turn + math.pi * (2 * third / 3 - 0.5) for third in range(3)]
        return [(self.x + r * math.cos(angle), self.y + r * math.sin(angle)) for angle in angles]

    def box(self) -> Box:
        """Left, top, right, bottom: tight around the corners."""
        xs, ys = zip(*self.corners(), strict=True)
        return min(xs), min(ys), max(xs), max(ys)


def draw_sample(folder: Path, *, train: int = 192, val: int = 48, size: int = 128, seed: int = 0) -> None:
    """Write a detection dataset of circles, squares and triangles into `folder`.

    `train` and `val` count images, `size` is their side in pixels. The same arguments draw the same
    pictures, and more images of one seed begin with the fewer ones. The layout is the one that
    `trainer.dataset` reads: `data.yaml`, `images/<split>/`, `labels/<split>/`.
    """
    for split, count in (("train", train), ("val", val)):
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            rng = random.Random(f"{seed}/{split}/{number}")
            shapes = _place(rng)
            name = f"sample-{number:04d}"
            _draw(rng, shapes, size).save(images / f"{name}.jpg", quality=92)
            (labels / f"{name}.txt").write_text("".join(map(_label, shapes)), encoding="utf-8")
    names = dict(enumerate(CLASS_NAMES))
    (folder / "data.yaml").write_text(yaml.safe_dump({"names": names}, sort_keys=False), encoding="utf-8")


def _place(rng: random.Random) -> list[_Shape]:
    """One to three shapes inside the image whose boxes do not touch."""
    wanted = rng.randint(1, 3)
    placed: list[_Shape] = []
    for _ in range(_TRIES):
        radius = rng.uniform(_SMALLEST, _LARGEST)
        room = radius + _MARGIN
        shape = _Shape(
            class_id=rng.randrange(len(CLASS_NAMES)),
            x=rng.uniform(room, 1 - room),
            y=rng.uniform(room, 1 - room),
            radius=radius,
            turn=rng.uniform(-0.2, 0.2),
        )
        if not any(_touch(shape.box(), other.box()) for other in placed):
            placed.append(shape)
        if len(placed) == wanted:
            break
    return placed


def _touch(one: Box, other: Box) -> bool:
    return (
        one[0] < other[2] + _MARGIN
        and other[0] < one[2] + _MARGIN
        and one[1] < other[3] + _MARGIN
        and other[1] < one[3] + _MARGIN
    )


def _draw(rng: random.Random, shapes: list[_Shape], size: int) -> Image.Image:
    background = _background(rng, size)
    side = size * _OVERSAMPLING
    for shape in shapes:
        mask = Image.new("L", (side, side))
        pen = ImageDraw.Draw(mask)
        # Pillow's coordinates name pixels and include the last one: a half pixel turns edges into pixels.
        points = [(x * side - 0.5, y * side - 0.5) for x, y in shape.corners()]
        if CLASS_NAMES[shape.class_id] == "circle":
            pen.ellipse(points, fill=255)
        else:
            pen.polygon(points, fill=255)
        colour = _colour(rng, saturation=(0.7, 1.0), value=(0.75, 1.0))
        background.paste(colour, mask=mask.resize((size, size), Image.Resampling.BOX))
    return background


def _background(rng: random.Random, size: int) -> Image.Image:
    """A dull gradient in a random direction, with grain: never the same, never as bright as a shape."""
    gradient = Image.linear_gradient("L").resize((2 * size, 2 * size)).rotate(rng.uniform(0, 360))
    centre = gradient.crop((size // 2, size // 2, size // 2 + size, size // 2 + size))
    dark = _colour(rng, saturation=(0.0, 0.3), value=(0.1, 0.3))
    light = _colour(rng, saturation=(0.0, 0.3), value=(0.3, 0.55))
    # Pillow's own noise cannot be seeded.
    grain = Image.frombytes("L", (size, size), rng.randbytes(size * size)).convert("RGB")
    return Image.blend(ImageOps.colorize(centre, dark, light), grain, 0.08)


def _colour(rng: random.Random, *, saturation: Point, value: Point) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return round(red * 255), round(green * 255), round(blue * 255)


def _label(shape: _Shape) -> str:
    """One YOLO row: class, centre x, centre y, width, height, in shares of the image."""
    left, top, right, bottom = shape.box()
    numbers = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    return f"{shape.class_id} " + " ".join(f"{number:.6f}" for number in numbers) + "\n"
