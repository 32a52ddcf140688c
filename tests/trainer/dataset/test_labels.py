"""Rows of labels: what is read of them, and what is refused with which words."""

import pytest

from drawing import ROWS, description_for
from trainer.contract.tasks import TaskType
from trainer.dataset.labels import Instance, RowError, outline_area, parse, parse_row
from trainer.dataset.layout import Description, Keypoints

DETECTION = description_for(TaskType.OBJECT_DETECTION)
SEGMENTATION = description_for(TaskType.INSTANCE_SEGMENTATION)
ORIENTED = description_for(TaskType.ORIENTED_DETECTION)
POSE = description_for(TaskType.POSE_ESTIMATION)  # two keypoints with visibility
POSE_2D = Description(TaskType.POSE_ESTIMATION, ("cat",), Keypoints(2, 2))


def refused(row: str, description: Description) -> RowError:
    with pytest.raises(RowError) as caught:
        parse_row(row, description)
    return caught.value


class TestGoodRows:
    def test_a_box(self) -> None:
        assert parse_row("1 0.5 0.25 0.2 0.1", DETECTION) == Instance(1, (0.5, 0.25, 0.2, 0.1))

    def test_a_polygon_has_the_box_around_it(self) -> None:
        found = parse_row("0 0.25 0.25 0.75 0.25 0.5 0.5", SEGMENTATION)
        assert found == Instance(0, (0.5, 0.375, 0.5, 0.25), ((0.25, 0.25), (0.75, 0.25), (0.5, 0.5)))

    def test_an_oriented_box_has_its_four_corners(self) -> None:
        found = parse_row("0 0.5 0 1 0.5 0.5 1 0 0.5", ORIENTED)
        assert found.points == ((0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5))
        assert found.box == (0.5, 0.5, 1, 1)

    def test_keypoints_come_with_their_visibility(self) -> None:
        found = parse_row("0 0.5 0.5 0.5 0.5 0.1 0.2 2 0 0 0", POSE)
        assert (found.points, found.visible) == (((0.1, 0.2), (0, 0)), (2, 0))
        assert parse_row("0 0.5 0.5 0.5 0.5 0.1 0.2 0.3 0.4", POSE_2D).points == ((0.1, 0.2), (0.3, 0.4))
        assert parse_row("0 0.5 0.5 0.5 0.5 0.1 0.2 0.3 0.4", POSE_2D).visible == ()

    @pytest.mark.parametrize(
        "row", ["0\t0.5\t0.5 \t0.2 0.2\r", "  0 .5 5e-1 +0.2 0.2  ", "0.0 0.5 0.5 0.2 0.2", "00 .5 .5 .2 .2"]
    )
    def test_numbers_may_be_written_in_any_way_that_the_trainer_reads(self, row: str) -> None:
        assert parse_row(row, DETECTION) == Instance(0, (0.5, 0.5, 0.2, 0.2))

    @pytest.mark.parametrize("row", ["0 1.01 0.5 0.2 0.2", "0 0.5 -0.01 0.2 0.2", "0 0.5 0.5 1.01 1.01"])
    def test_a_hundredth_beyond_the_edge_is_allowed_as_ultralytics_allows_it(self, row: str) -> None:
        assert parse_row(row, DETECTION).class_id == 0

    def test_a_corner_outside_is_allowed_while_the_box_around_is_not_outside(self) -> None:
        assert parse_row("0 -0.07 0.2 0.5 0.2 0.5 0.5 -0.07 0.5", ORIENTED).reaches_out(outline=True)
        assert parse_row("0 0.7 0.7 1.3 0.7 1.3 0.9", SEGMENTATION).reaches_out(outline=True)

    def test_a_class_of_an_unreadable_list_of_classes_is_not_judged(self) -> None:
        assert parse_row("77 0.5 0.5 0.2 0.2", description_for(TaskType.OBJECT_DETECTION, ())).class_id == 77


class TestBadRows:
    @pytest.mark.parametrize(
        ("row", "code"),
        [
            ("0", "label_malformed"),
            ("0 0.5 0.5 0.2", "label_malformed"),
            ("0 0.5 0.5 0.2 0.2 0.9", "label_malformed"),
            ("0 0.1 0.1 0.2 0.1 0.2 0.2", "label_malformed"),
            ("circle 0.5 0.5 0.2 0.2", "label_malformed"),
            ("0,0.5,0.5,0.2,0.2", "label_malformed"),
            ("0 0,5 0,5 0,2 0,2", "label_malformed"),
            ("0 0.5 0.5 0.2 0_1", "label_malformed"),
            ("0 0.5 0.5 0.2 0x1", "label_malformed"),
            ("٠ ٠.٥ 0.5 0.2 0.2", "label_malformed"),
            ("0\u00a00.5 0.5 0.2 0.2", "label_malformed"),
            ("0\x0c0.5 0.5 0.2 0.2", "label_malformed"),
            ("0\x1c0.5 0.5 0.2 0.2", "label_malformed"),
            ("0 0.5 0.5 0.2 0.2\x00", "label_malformed"),
            ("0 0.5 0.5 0.2 0.2 \ufeff", "label_malformed"),
            ("2 0.5 0.5 0.2 0.2", "class_out_of_range"),
            ("-1 0.5 0.5 0.2 0.2", "class_out_of_range"),
            ("0.5 0.5 0.5 0.2 0.2", "class_out_of_range"),
            ("nan 0.5 0.5 0.2 0.2", "class_out_of_range"),
            ("inf 0.5 0.5 0.2 0.2", "class_out_of_range"),
            ("1e400 0.5 0.5 0.2 0.2", "class_out_of_range"),
            ("9" * 4_000 + " 0.5 0.5 0.2 0.2", "class_out_of_range"),
            ("0 64 64 20 20", "coordinates_not_normalised"),
            ("0 -0.1 0.5 0.2 0.2", "coordinates_not_normalised"),
            ("0 nan 0.5 0.2 0.2", "coordinates_not_normalised"),
            ("0 0.5 nan 0.2 0.2", "coordinates_not_normalised"),
            ("0 0.5 0.5 nan 0.2", "coordinates_not_normalised"),
            ("0 0.5 0.5 0.2 NaN", "coordinates_not_normalised"),
            ("0 0.5 0.5 0.2 infinity", "coordinates_not_normalised"),
            ("0 1e400 0.5 0.2 0.2", "coordinates_not_normalised"),
            ("0 0.5 -1e400 0.2 0.2", "coordinates_not_normalised"),
            ("0 0.5 0.5 -0.005 0.2", "coordinates_not_normalised"),
            ("0 0.5 0.5 0 0.2", "box_empty"),
            ("0 0.5 0.5 0.2 -0.0", "box_empty"),
        ],
    )
    def test_boxes(self, row: str, code: str) -> None:
        error = refused(row, DETECTION)
        assert error.code == code
        assert len(str(error)) < 250
        assert str(error).isascii()

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ("0 0.5 abc 0.2 0.2", "Value 3 is no number: 'abc'. Write numbers with digits and a point."),
            ("0 0,5 0,5 0,2 0,2", "Value 2 is no number: '0,5'. Write numbers with digits and a point."),
            ("traffic_light 0.5 0.5 0.2 0.2", "Value 1 is no number: 'traffic_light'. Write the class as its id"),
            ("0,0.5,0.5,0.2,0.2", "Separate the numbers by spaces"),
            ("95 0.5 0.5 0.2 0.2", "Class id 95 is not one of the dataset's classes (0 to 1)."),
        ],
    )
    def test_the_advice_is_about_the_value_that_is_wrong(self, row: str, said: str) -> None:
        assert said in str(refused(row, DETECTION))

    @pytest.mark.parametrize(
        ("row", "code"),
        [
            ("0 0.5 0.5 0.2 0.2", "label_malformed"),
            ("0 0.1 0.1 0.2 0.2 0.3", "label_malformed"),
            ("0 0.1 0.1 0.2 0.2 0.3 0.1 0.5", "label_malformed"),
            ("0 10 10 20 10 20 20", "coordinates_not_normalised"),
            ("0 0.1 0.1 nan 0.1 0.2 0.2", "coordinates_not_normalised"),
            ("0 0.1 0.1 1e308 0.1 1e308 0.2", "coordinates_not_normalised"),
            ("0 -0.6 0.1 0.2 0.1 0.2 0.2", "coordinates_not_normalised"),
            ("0 0.1 0.1 0.1 0.5 0.1 0.9", "box_empty"),
            ("0 0.1 0.1 0.1 0.1 0.1 0.1", "box_empty"),
        ],
    )
    def test_polygons(self, row: str, code: str) -> None:
        assert refused(row, SEGMENTATION).code == code

    @pytest.mark.parametrize("corners", [3, 5])
    def test_an_oriented_box_has_neither_three_nor_five_corners(self, corners: int) -> None:
        row = "0 " + " ".join(f"0.{i}1 0.{i}2" for i in range(1, corners + 1))
        assert refused(row, ORIENTED).code == "label_malformed"

    @pytest.mark.parametrize(
        ("row", "code"),
        [
            ("0 0.5 0.5 0.5 0.5", "keypoint_count"),
            ("0 0.5 0.5 0.5 0.5 0.1 0.1 2", "keypoint_count"),
            ("0 0.5 0.5 0.5 0.5 0.1 0.1 0.2 0.2", "keypoint_count"),
            ("0 0.5 0.5 0.5 0.5 0.1 0.1 2 1.2 0.2 2", "keypoint_outside"),
            ("0 0.5 0.5 0.5 0.5 0.1 0.1 2 1.2 0.2 0", "keypoint_outside"),
            ("0 0.5 0.5 0.5 0.5 0.1 0.1 2 nan 0.2 1", "keypoint_outside"),
            ("0 0.5 0.5 0.5 0.5 0.1 0.1 3 0.2 0.2 1", "keypoint_visibility"),
            ("0 0.5 0.5 0.5 0.5 0.1 0.1 0.9 0.2 0.2 1", "keypoint_visibility"),
            ("0 0.5 0.5 0.5 0.5 0.1 0.1 nan 0.2 0.2 1", "keypoint_visibility"),
            ("0 0.5 0.5 0 0.5 0.1 0.1 2 0.2 0.2 1", "box_empty"),
            ("5 0.5 0.5 0.1 0.5 0.1 0.1 2 0.2 0.2 1", "class_out_of_range"),
        ],
    )
    def test_keypoints(self, row: str, code: str) -> None:
        assert refused(row, POSE).code == code

    def test_rows_of_one_task_are_recognised_in_a_dataset_of_another(self) -> None:
        assert refused(ROWS[TaskType.ORIENTED_DETECTION][0], DETECTION).looks_like == TaskType.ORIENTED_DETECTION
        assert refused(ROWS[TaskType.INSTANCE_SEGMENTATION][0], DETECTION).looks_like == TaskType.INSTANCE_SEGMENTATION
        assert refused(ROWS[TaskType.OBJECT_DETECTION][0], POSE).looks_like == TaskType.OBJECT_DETECTION
        assert refused("0 0.5 0.5 0.5 0.5 0.1 0.1 2", DETECTION).looks_like == TaskType.POSE_ESTIMATION
        assert refused("0 64 64 20 20", DETECTION).looks_like is None


class TestDrawing:
    def test_rows_that_cannot_be_used_are_passed_over(self) -> None:
        text = "\ufeff0 0.5 0.5 0.2 0.2\r\n\r\nnonsense\n9 0.5 0.5 0.2 0.2\r1 0.25 0.5 0.2 0.2\n \n\x00"
        assert [instance.class_id for instance in parse(text, DETECTION)] == [0, 1]

    @pytest.mark.parametrize("text", ["", "\n", "\x00" * 50, "\ufffd" * 50, "0 " * 100_000])
    def test_text_that_is_no_label_draws_nothing(self, text: str) -> None:
        for description in (DETECTION, SEGMENTATION, ORIENTED, POSE, description_for(TaskType.IMAGE_CLASSIFICATION)):
            assert parse(text, description) == []

    def test_the_area_of_an_outline(self) -> None:
        assert outline_area(((0, 0), (1, 0), (1, 0.5), (0, 0.5))) == pytest.approx(0.5)
        assert outline_area(((0, 0), (0.5, 0.5), (1, 1))) == pytest.approx(0)
