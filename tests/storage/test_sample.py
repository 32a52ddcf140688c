"""The drawn sample: real pictures whose labels are true."""

from pathlib import Path

import pytest
from PIL import Image, ImageChops

from apps.storage.sample import CLASS_NAMES, draw_sample
from trainer.dataset.validation import validate


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def boxes(label: Path) -> list[list[float]]:
    return [[float(number) for number in row.split()] for row in label.read_text().splitlines()]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    draw_sample(folder, train=40, val=10)
    return folder


def test_the_sample_is_a_valid_dataset_of_the_size_asked_for(sample: Path) -> None:
    report = validate(sample, "object_detection")
    assert report.findings == []
    assert report.images == {"train": 40, "val": 10}
    assert report.class_names == list(CLASS_NAMES)


def test_every_picture_has_one_to_three_shapes_and_every_class_is_there(sample: Path) -> None:
    labels = [boxes(label) for label in sorted((sample / "labels").rglob("*.txt"))]
    assert {len(rows) for rows in labels} == {1, 2, 3}
    assert {row[0] for rows in labels for row in rows} == {0, 1, 2}


def test_one_seed_draws_the_same_pictures_and_another_seed_others(sample: Path, tmp_path: Path) -> None:
    draw_sample(tmp_path / "again", train=40, val=10)
    draw_sample(tmp_path / "other", train=40, val=10, seed=1)
    assert content(tmp_path / "again") == content(sample)
    assert content(tmp_path / "other") != content(sample)


def test_a_smaller_sample_is_the_beginning_of_a_larger_one(sample: Path, tmp_path: Path) -> None:
    draw_sample(tmp_path, train=5, val=2)
    assert content(tmp_path).items() <= content(sample).items()


def test_pictures_have_the_side_asked_for(tmp_path: Path) -> None:
    draw_sample(tmp_path, train=1, val=1, size=96)
    with Image.open(tmp_path / "images/val/sample-0000.jpg") as image:
        assert (image.size, image.mode) == ((96, 96), "RGB")


def test_boxes_hug_what_was_drawn(tmp_path: Path) -> None:
    """Shapes are brighter than any background: around each box alone, the bright pixels are the shape."""
    draw_sample(tmp_path, train=30, val=0, size=256)
    for label in sorted((tmp_path / "labels/train").iterdir()):
        with Image.open(tmp_path / "images/train" / f"{label.stem}.jpg") as image:
            red, green, blue = image.split()
        bright = ImageChops.lighter(ImageChops.lighter(red, green), blue).point(lambda value: 255 * (value > 165))
        for _, x, y, width, height in boxes(label):
            left, top, right, bottom = (
                256 * edge for edge in (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            )
            window = (round(left) - 5, round(top) - 5, round(right) + 5, round(bottom) + 5)
            drawn = bright.crop(window).getbbox()
            assert drawn is not None
            found = (drawn[0] + window[0], drawn[1] + window[1], drawn[2] + window[0], drawn[3] + window[1])
            assert found == pytest.approx((left, top, right, bottom), abs=3), label


def test_shapes_do_not_overlap(sample: Path) -> None:
    for label in sorted((sample / "labels").rglob("*.txt")):
        rows = boxes(label)
        for number, (_, x, y, width, height) in enumerate(rows):
            for _, x2, y2, width2, height2 in rows[number + 1 :]:
                assert abs(x - x2) > (width + width2) / 2 or abs(y - y2) > (height + height2) / 2
