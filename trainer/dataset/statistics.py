"""What the histograms of a dataset are drawn from: a small JSON object, however large the dataset is."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypedDict

from trainer.dataset.labels import Instance

_MEGAPIXELS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_AREAS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_ASPECTS = (0.1, 0.25, 0.5, 0.8, 1.25, 2.0, 4.0, 10.0)
_NUMBERS = (0, 1, 2, 5, 10, 20, 50, 100, 300)
_SMALL, _LARGE = 32**2, 96**2  # square pixels, as COCO divides objects into small, medium and large

_LISTED_SIZES = 20
_COUNTED_SIZES = 5_000  # sizes of their own that are counted one by one; memory stays bounded
_LISTED_CLASSES = 300


class Histogram(TypedDict):
    """`counts[i]` values are at most `edges[i]` and above the edge before; the last of `counts` are above all."""

    edges: list[float]
    counts: list[int]


class ClassCount(TypedDict):
    """`images` and `instances` by split; splits without any are left out."""

    id: int
    images: dict[str, int]
    instances: dict[str, int]


class ImageSize(TypedDict):
    """Pixels, and how many images have this size."""

    width: int
    height: int
    images: int


class Statistics(TypedDict):
    """All there is to draw.

    - `images`, `instances`, `backgrounds` (images without an object): numbers by split.
    - `classes`: those with most instances come first, 300 at most; `classes_left_out` counts the others. A class
      without any instance is not listed.
    - `image_sizes`: the 20 commonest. `image_megapixels`: width x height of all images, in millions.
    - `object_areas`: an object's box as a share (0 to 1) of its image. `object_pixels`: the same by COCO's bounds, up
      to 32 x 32 pixels, up to 96 x 96, above. `object_aspects`: width by height, in pixels.
    - `objects_per_image`: how many objects an image has.

    For classification, an image is one instance of its class; what counts objects is empty.
    """

    images: dict[str, int]
    instances: dict[str, int]
    backgrounds: dict[str, int]
    classes: list[ClassCount]
    classes_left_out: int
    image_sizes: list[ImageSize]
    image_megapixels: Histogram
    object_areas: Histogram
    object_pixels: dict[str, int]
    object_aspects: Histogram
    objects_per_image: Histogram


class Tally:
    """The objects of one image, in sum. Made where the label is read, so that a long one costs no memory for long."""

    __slots__ = ("areas", "aspects", "classes", "instances", "pixels")

    def __init__(self) -> None:
        self.instances = 0
        self.classes: Counter[int] = Counter()
        self.areas = [0] * (len(_AREAS) + 1)
        self.aspects = [0] * (len(_ASPECTS) + 1)
        self.pixels = [0, 0, 0]

    def add(self, instance: Instance, width: int, height: int) -> None:
        """`width` and `height` are the image's, in pixels; 0 where they are not known."""
        self.instances += 1
        self.classes[instance.class_id] += 1
        self.areas[bisect_left(_AREAS, instance.area)] += 1
        if width and height:
            across, down = instance.box[2] * width, instance.box[3] * height
            self.aspects[bisect_left(_ASPECTS, across / down)] += 1
            self.pixels[0 if across * down <= _SMALL else 1 if across * down <= _LARGE else 2] += 1


class StatisticsBuilder:
    """Adds up images, one at a time."""

    def __init__(self, splits: Iterable[str]) -> None:
        self.images = dict.fromkeys(splits, 0)
        self.instances = dict.fromkeys(self.images, 0)
        self.backgrounds = dict.fromkeys(self.images, 0)
        self.instances_by_class: dict[str, Counter[int]] = {split: Counter() for split in self.images}
        self._images_by_class: dict[str, Counter[int]] = {split: Counter() for split in self.images}
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._megapixels = [0] * (len(_MEGAPIXELS) + 1)
        self._objects = Tally()
        self._per_image = [0] * (len(_NUMBERS) + 1)

    def add_image(self, split: str, width: int, height: int) -> None:
        self.images[split] += 1
        if width and height:
            if (width, height) in self._sizes or len(self._sizes) < _COUNTED_SIZES:
                self._sizes[width, height] += 1
            self._megapixels[bisect_left(_MEGAPIXELS, width * height / 1e6)] += 1

    def add_class(self, split: str, class_id: int) -> None:
        """An image of classification, which is the one instance of its class."""
        self.instances[split] += 1
        self.instances_by_class[split][class_id] += 1
        self._images_by_class[split][class_id] += 1

    def add_objects(self, split: str, tally: Tally) -> None:
        self.instances[split] += tally.instances
        self.backgrounds[split] += not tally.instances
        self.instances_by_class[split].update(tally.classes)
        self._images_by_class[split].update(tally.classes.keys())
        self._per_image[bisect_left(_NUMBERS, tally.instances)] += 1
        total = self._objects
        for sums, more in ((total.areas, tally.areas), (total.aspects, tally.aspects), (total.pixels, tally.pixels)):
            for index, number in enumerate(more):
                sums[index] += number

    def result(self) -> Statistics:
        classes: Counter[int] = sum(self.instances_by_class.values(), start=Counter())
        listed = [class_id for class_id, _ in sorted(classes.items(), key=lambda item: (-item[1], item[0]))]
        small, medium, large = self._objects.pixels
        commonest = sorted(self._sizes.items(), key=lambda item: (-item[1], item[0]))[:_LISTED_SIZES]
        return {
            "images": dict(self.images),
            "instances": dict(self.instances),
            "backgrounds": dict(self.backgrounds),
            "classes": [self._class(class_id) for class_id in listed[:_LISTED_CLASSES]],
            "classes_left_out": len(listed[_LISTED_CLASSES:]),
            "image_sizes": [{"width": w, "height": h, "images": images} for (w, h), images in commonest],
            "image_megapixels": _histogram(_MEGAPIXELS, self._megapixels),
            "object_areas": _histogram(_AREAS, self._objects.areas),
            "object_pixels": {"small": small, "medium": medium, "large": large},
            "object_aspects": _histogram(_ASPECTS, self._objects.aspects),
            "objects_per_image": _histogram(_NUMBERS, self._per_image),
        }

    def _class(self, class_id: int) -> ClassCount:
        return {
            "id": class_id,
            "images": _by_split(self._images_by_class, class_id),
            "instances": _by_split(self.instances_by_class, class_id),
        }


def _by_split(counters: dict[str, Counter[int]], class_id: int) -> dict[str, int]:
    return {split: counter[class_id] for split, counter in counters.items() if counter[class_id]}


def _histogram(edges: Sequence[float], counts: Sequence[int]) -> Histogram:
    return {"edges": list(edges), "counts": list(counts)}
