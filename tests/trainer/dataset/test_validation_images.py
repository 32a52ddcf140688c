"""Pictures: every damaged one is an error, every good one is measured as it will be trained on."""

import io
import warnings
from pathlib import Path

import pytest
from PIL import Image

from drawing import draw, picture
from trainer.dataset.images import Picture, check_picture
from trainer.dataset.validation import validate

KINDS = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}


def codes(checked: Picture) -> dict[str, str]:
    return {problem.code: problem.severity for problem in checked.problems}


def is_refused(data: bytes, suffix: str) -> bool:
    return "error" in codes(check_picture(data, suffix)).values()


class TestGoodPictures:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
    def test_every_kind_is_measured(self, kind: str, mode: str) -> None:
        mode = "L" if kind == "JPEG" and mode == "P" else mode
        assert check_picture(picture(kind=kind, mode=mode), KINDS[kind]) == Picture(64, 48, ())

    @pytest.mark.parametrize(
        "how", [{"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}, {"quality": 1}]
    )
    def test_every_way_to_write_a_jpeg(self, how: dict[str, int]) -> None:
        assert check_picture(picture(**how), ".JPEG") == Picture(64, 48, ())

    @pytest.mark.parametrize(
        "how", [{"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {"compression": "jpeg"}]
    )
    def test_every_way_to_write_a_tiff(self, how: dict[str, str]) -> None:
        assert check_picture(picture(kind="TIFF", **how), ".tiff") == Picture(64, 48, ())

    def test_a_photograph_with_more_views_behind_it_is_a_jpeg(self) -> None:
        stream = io.BytesIO()
        views = [Image.open(io.BytesIO(picture(seed))) for seed in (1, 2)]
        views[0].save(stream, "MPO", save_all=True, append_images=views[1:])
        assert check_picture(stream.getvalue(), ".jpg") == Picture(64, 48, ())

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_size_is_that_of_the_upright_picture(self, kind: str, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        checked = check_picture(picture(kind=kind, exif=exif), KINDS[kind])
        assert (checked.width, checked.height) == ((48, 64) if orientation >= 5 else (64, 48))
        assert checked.problems == ()


class TestDamagedPictures:
    @pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")  # a whole check keeps them quiet by itself
    @pytest.mark.parametrize("kind", KINDS)
    def test_one_cut_off_anywhere_is_refused(self, kind: str) -> None:
        data = picture(kind=kind, size=(40, 30))
        ends = {*range(0, len(data), 10), *range(max(0, len(data) - 30), len(data))}
        assert [end for end in sorted(ends) if not is_refused(data[:end], KINDS[kind])] == []

    def test_a_progressive_jpeg_and_one_with_a_thumbnail_cut_off_anywhere_are_refused(self) -> None:
        exif = Image.Exif()
        exif[0x010E] = "thumbnail \xff\xd8 \xff\xd9"
        for data in (picture(progressive=True), picture(exif=exif.tobytes() + b"\xff\xd8\xff\xd9")):
            assert [end for end in range(0, len(data), 10) if not is_refused(data[:end], ".jpg")] == []

    def test_a_jpeg_whose_end_was_never_written_is_refused(self) -> None:
        data = picture(size=(640, 480), quality=95)
        for missing in (10, 1_000, len(data) // 2):
            assert is_refused(data[:-missing] + bytes(missing), ".jpg")
            assert is_refused(data[:-missing] + b"\xff" * missing, ".jpg")

    def test_one_cut_off_says_so(self) -> None:
        assert "image_truncated" in codes(check_picture(picture()[:-100], ".jpg"))

    @pytest.mark.parametrize(
        "data", [b"", b"\x00", b"GIF? no.", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"BM", b"II*\x00", b"RIFF" * 9]
    )
    def test_bytes_that_are_no_picture_are_refused(self, data: bytes) -> None:
        checked = check_picture(data, ".jpg")
        assert codes(checked) in ({"image_unreadable": "error"}, {"image_truncated": "error"})
        assert (checked.width, checked.height) == (0, 0)

    @pytest.mark.parametrize("kind", ["GIF", "PPM", "ICO", "JPEG2000", "AVIF"])
    def test_kinds_that_are_not_trained_on_are_refused_under_any_name(self, kind: str) -> None:
        assert codes(check_picture(picture(kind=kind), ".jpg")) == {"image_unreadable": "error"}

    def test_a_changed_byte_in_a_png_is_noticed_wherever_it_is(self) -> None:
        data = picture(kind="PNG", size=(20, 20))
        for at in range(len(data)):
            changed = data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]
            assert is_refused(changed, ".png"), at


class TestOddPictures:
    @pytest.mark.parametrize("size", [(9, 64), (64, 9), (1, 1)])
    def test_a_picture_too_small_to_train_on_is_an_error(self, size: tuple[int, int]) -> None:
        assert codes(check_picture(picture(size=size), ".jpg")) == {"image_too_small": "error"}
        assert codes(check_picture(picture(size=(10, 10)), ".jpg")) == {}

    def test_another_kind_than_the_name_says_is_a_warning(self) -> None:
        assert codes(check_picture(picture(kind="PNG"), ".jpg")) == {"image_suffix_differs": "warning"}

    @pytest.mark.parametrize(("kind", "mode"), [("JPEG", "CMYK"), ("PNG", "I;16"), ("TIFF", "CMYK"), ("TIFF", "LAB")])
    def test_colours_that_the_trainer_converts_are_a_warning(self, kind: str, mode: str) -> None:
        stream = io.BytesIO()
        Image.new(mode, (64, 48)).save(stream, kind)
        assert codes(check_picture(stream.getvalue(), KINDS[kind])) == {"image_mode_unusual": "warning"}

    @pytest.mark.parametrize("mode", ["F", "I"])
    def test_numbers_that_the_trainer_cannot_read_are_an_error(self, mode: str) -> None:
        stream = io.BytesIO()
        Image.new(mode, (64, 48)).save(stream, "TIFF")
        assert codes(check_picture(stream.getvalue(), ".tif")) == {"image_mode_unreadable": "error"}

    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
    def test_several_frames_are_a_warning(self, kind: str) -> None:
        frames = [Image.open(io.BytesIO(picture(seed, kind="PNG"))) for seed in (1, 2, 3)]
        stream = io.BytesIO()
        frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
        assert codes(check_picture(stream.getvalue(), KINDS[kind])) == {"image_has_frames": "warning"}

    def test_bytes_behind_a_jpeg_are_a_warning_because_ultralytics_would_write_it_anew(self) -> None:
        assert codes(check_picture(picture() + bytes(50), ".jpg")) == {"image_has_trailing_bytes": "warning"}

    def test_pixel_counts_that_fill_the_memory_are_an_error_and_cost_none(self) -> None:
        header = bytearray(picture(kind="BMP"))
        header[18:26] = (30_000).to_bytes(4, "little") * 2
        checked = check_picture(bytes(header), ".bmp")
        assert codes(checked) == {"image_too_large": "error"}
        assert "178 million" in checked.problems[0].message

    def test_a_picture_larger_than_is_read_at_once_is_checked_from_its_file(self, tmp_path: Path) -> None:
        folder = draw(tmp_path / "d")
        large = folder / "images/train/0.bmp"
        (folder / "images/train/0.jpg").unlink()
        Image.new("L", (9_000, 8_000)).save(large)  # 72 MB
        report = validate(folder)
        assert report.findings == []
        with large.open("r+b") as file:
            file.truncate(70_000_000)
        assert [finding.code for finding in validate(folder).findings] == ["image_truncated"]

    def test_many_pixels_are_a_warning_of_ours_and_none_of_pillows(self, tmp_path: Path) -> None:
        folder = draw(tmp_path / "d")
        Image.new("1", (9_500, 9_500)).save(folder / "images/train/0.png")
        (folder / "images/train/0.jpg").unlink()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert [finding.code for finding in validate(folder).findings] == ["image_huge"]
