"""What the histograms are drawn from: right, bounded, and JSON."""

import json
from pathlib import Path

import pytest

from drawing import draw, picture
from trainer.contract.tasks import TaskType
from trainer.dataset.labels import Instance
from trainer.dataset.statistics import Histogram, StatisticsBuilder, Tally
from trainer.dataset.validation import validate


def filled(histogram: Histogram) -> dict[float, int]:
    """The upper edges of the parts that hold any, with their number; infinity for the last."""
    edges = [*histogram["edges"], float("inf")]
    assert len(edges) == len(histogram["counts"])
    return {edge: count for edge, count in zip(edges, histogram["counts"], strict=True) if count}


class TestCounting:
    def test_objects_are_counted_by_class_split_size_and_shape(self, tmp_path: Path) -> None:
        folder = draw(tmp_path / "d", train=2, val=1)
        (folder / "images/train/1.jpg").write_bytes(picture(9, size=(1000, 500)))
        (folder / "labels/train/0.txt").write_text("")
        (folder / "labels/train/1.txt").write_text("1 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.02 0.04\n0 0.5 0.5 0.09 0.1\n")
        statistics = validate(folder).statistics
        assert statistics["images"] == {"train": 2, "val": 1}
        assert statistics["instances"] == {"train": 3, "val": 2}
        assert statistics["backgrounds"] == {"train": 1, "val": 0}
        assert statistics["classes"] == [
            {"id": 1, "images": {"train": 1, "val": 1}, "instances": {"train": 2, "val": 1}},
            {"id": 0, "images": {"train": 1, "val": 1}, "instances": {"train": 1, "val": 1}},
        ]
        assert statistics["image_sizes"] == [
            {"width": 64, "height": 48, "images": 2},
            {"width": 1000, "height": 500, "images": 1},
        ]
        assert filled(statistics["image_megapixels"]) == {0.05: 2, 0.5: 1}
        # In val, boxes of 0.5 x 0.4 and 0.2 x 0.2 in 64 x 48 pixels.
        assert filled(statistics["object_areas"]) == {0.001: 1, 0.01: 1, 0.1: 1, 0.3: 2}
        assert statistics["object_pixels"] == {"small": 3, "medium": 1, "large": 1}
        assert filled(statistics["object_aspects"]) == {1.25: 1, 2.0: 4}
        assert filled(statistics["objects_per_image"]) == {0: 1, 2: 1, 5: 1}

    def test_a_picture_is_one_instance_of_its_class_in_classification(self, tmp_path: Path) -> None:
        statistics = validate(draw(tmp_path / "d", TaskType.IMAGE_CLASSIFICATION)).statistics
        assert statistics["classes"][0] == {
            "id": 0,
            "images": {"train": 3, "val": 2},
            "instances": {"train": 3, "val": 2},
        }
        assert statistics["backgrounds"] == {"train": 0, "val": 0}
        assert filled(statistics["object_areas"]) == filled(statistics["objects_per_image"]) == {}

    def test_a_picture_of_unknown_size_counts_without_it(self) -> None:
        builder, tally = StatisticsBuilder(["train"]), Tally()
        tally.add(Instance(0, (0.5, 0.5, 0.5, 0.5)), 0, 0)
        builder.add_image("train", 0, 0)
        builder.add_objects("train", tally)
        statistics = builder.result()
        assert (statistics["images"], statistics["instances"]) == ({"train": 1}, {"train": 1})
        assert statistics["image_sizes"] == []
        assert filled(statistics["object_areas"]) == {0.3: 1}
        assert filled(statistics["object_aspects"]) == {}

    @pytest.mark.parametrize("share", [0.0001, 0.1, 1.0])
    def test_a_value_on_an_edge_belongs_below_it(self, share: float) -> None:
        tally, builder = Tally(), StatisticsBuilder(["train"])
        tally.add(Instance(0, (0.5, 0.5, share, 1.0)), 100, 100)
        builder.add_objects("train", tally)
        assert filled(builder.result()["object_areas"]) == {share: 1}


class TestBounds:
    def test_of_many_classes_and_sizes_the_commonest_are_listed(self) -> None:
        builder = StatisticsBuilder(["train", "val", "test"])
        for class_id in range(20_000):
            for split in ("train", "val", "test"):
                tally = Tally()
                tally.add(Instance(class_id, (0.5, 0.5, 1e-300, 1e-300)), 1, 1)
                tally.classes[class_id] += 1_000_000 + class_id
                builder.add_image(split, 10 + class_id, 10)
                builder.add_objects(split, tally)
        statistics = builder.result()
        assert statistics["classes"][0]["id"] == 19_999
        assert (len(statistics["classes"]), statistics["classes_left_out"]) == (300, 19_700)
        assert len(statistics["image_sizes"]) == 20
        assert sum(statistics["image_megapixels"]["counts"]) == 60_000
        assert len(json.dumps(statistics, allow_nan=False)) < 50_000
