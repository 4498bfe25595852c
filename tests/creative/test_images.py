"""One image of any kind becomes the pixels that a person would see; contact sheets; PNG files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clickherd.creative.images import contact_sheet, open_image, save_png
from clickherd.errors import DataError, RunError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(data: bytes, size: int = 32, **options: object) -> np.ndarray:
    image = open_image(data, size, name="a.png", **options)
    assert image.shape == (3, size, size)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    return image


def gradient(mode: str = "RGB") -> Image.Image:
    across = np.linspace(0, 255, 64).round().astype(np.uint8)
    return Image.fromarray(np.stack([np.tile(across, (64, 1))] * 3, axis=2)).convert(mode)


def test_a_file_and_its_bytes_are_the_same_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    gradient().save(path)
    assert np.array_equal(open_image(path, 32, name="a.png"), opened(path.read_bytes()))


def test_an_image_of_the_size_asked_for_is_left_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert np.array_equal(opened(encoded(Image.fromarray(pixels))), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_the_background(mode: str) -> None:
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((90, 90, 90, 255), (0, 0, 20, 40))
    if mode == "P":
        image = image.quantize(4)
    result = opened(encoded(image if mode == "P" else image.convert(mode)), background=(255, 128, 0))
    assert result[:, 16, 4].tolist() == pytest.approx([90, 90, 90], abs=2)
    assert result[:, 16, 28].tolist() == [255, 128, 0]
    assert opened(encoded(image))[:, 16, 28].tolist() == [255, 255, 255]


def test_half_transparent_pixels_are_mixed_with_the_background() -> None:
    result = opened(encoded(Image.new("RGBA", (32, 32), (200, 0, 0, 128))))
    assert result[:, 5, 5].tolist() == pytest.approx([227, 127, 127], abs=2)


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("1", "PNG"), ("CMYK", "JPEG"), ("CMYK", "TIFF")])
def test_modes_without_red_green_and_blue(mode: str, kind: str) -> None:
    image = gradient(mode)
    result = opened(encoded(image, kind)).astype(float)
    assert result[:, :, :8].mean() < 45
    assert result[:, :, -8:].mean() > 210


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled(kind: str) -> None:
    grey = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    result = opened(encoded(Image.fromarray(grey), kind))
    assert np.abs(result[0, 16].astype(int) - np.linspace(2, 253, 32)).max() <= 3


@pytest.mark.parametrize("full", [1.0, 255.0, 65535.0])
def test_32_bit_grey_is_scaled_by_what_its_numbers_span(full: float) -> None:
    grey = np.tile(np.linspace(0, full, 64).astype(np.float32), (64, 1))
    result = opened(encoded(Image.fromarray(grey), "TIFF"))
    assert np.abs(result[0, 16].astype(int) - np.linspace(2, 253, 32)).max() <= 3


def test_a_photo_taken_sideways_is_turned_upright() -> None:
    image = Image.new("RGB", (64, 64), "white")
    image.paste("black", (0, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: what is on top comes to the right
    result = opened(encoded(image, "JPEG", exif=exif))
    assert result[:, :, :12].min() > 240
    assert result[:, :, 20:].max() < 15


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert opened(data)[:, 3, 3].tolist() == [255, 0, 0]


def test_crop_keeps_the_middle_and_pad_the_whole() -> None:
    image = Image.new("RGB", (96, 48), "red")
    image.paste("blue", (24, 0, 72, 48))
    assert (opened(encoded(image))[2, :, 1:-1] > 250).all()
    padded = opened(encoded(image), fit="pad", background=(0, 255, 0))
    assert padded[:, 2, 16].tolist() == [0, 255, 0]
    assert padded[:, 16, 16].tolist() == [0, 0, 255]
    assert padded[:, 16, 2].tolist() == [255, 0, 0]


def test_a_long_strip_can_be_padded() -> None:
    assert opened(encoded(Image.new("RGB", (3000, 20), "black")), fit="pad").min() == 0


def test_large_photos_are_shrunk_without_aliases() -> None:
    stripes = np.zeros((1000, 1000, 3), np.uint8)
    stripes[:, ::2] = 255
    for kind in ("PNG", "JPEG"):
        result = opened(encoded(Image.fromarray(stripes), kind, **({"quality": 95} if kind == "JPEG" else {})))
        assert np.abs(result.astype(int) - 128).max() < 12


def test_a_small_image_is_an_error_that_says_what_is_needed() -> None:
    with pytest.raises(DataError, match=r"too small: 40 × 15 pixels, where size = 32 needs 16 × 16 \(file a\.png\)"):
        opened(encoded(Image.new("RGB", (40, 15))))
    opened(encoded(Image.new("RGB", (40, 16))))


def test_no_image_empty_and_missing_files_are_errors_that_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not an image of a known format \(file a\.png\)"):
        opened(b"<html>404</html>")
    with pytest.raises(DataError, match=r"empty \(0 bytes\) \(file a\.png\)"):
        opened(b"")
    with pytest.raises(DataError, match=r"no such file \(file b\.png\)"):
        open_image(tmp_path / "b.png", 32, name="b.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_files_cut_short_are_errors_that_name_the_file(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    for length in (len(data) // 2, 60, 10):
        with pytest.raises(DataError, match=r"file a\.png"):
            opened(data[:length])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_flipped_bytes_give_an_image_or_an_error_that_names_the_file(kind: str) -> None:
    rng = np.random.default_rng(0)
    good = np.frombuffer(encoded(gradient(), kind), np.uint8)
    for _ in range(60):
        data = good.copy()
        data[rng.integers(0, min(len(data), 300), 3)] = rng.integers(0, 256, 3)
        try:
            opened(data.tobytes())
        except DataError as error:
            assert error.file == "a.png"  # noqa: PT017


def test_an_image_of_too_many_pixels_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    opened(data)  # up to twice as many pixels Pillow only warns
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(DataError, match=r"too many pixels .*file a\.png"):
        opened(data)


def test_a_contact_sheet_enlarges_small_images_by_a_whole_factor() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
    sheet = np.asarray(contact_sheet(images, 3))
    assert sheet.shape == (4 + 2 * 132, 4 + 3 * 132, 3)
    second_row_first_column = sheet[4 + 132 : 4 + 132 + 128, 4 : 4 + 128]
    assert np.array_equal(second_row_first_column[::4, ::4], images[3].transpose(1, 2, 0))
    assert np.array_equal(second_row_first_column[3::4, 3::4], images[3].transpose(1, 2, 0))
    assert (sheet[4 + 132 :, 4 + 2 * 132 :] == 255).all()
    assert contact_sheet(images, 5, scale=1).size == (4 + 5 * 36, 4 + 36)


def test_titles_stay_within_their_column_and_row() -> None:
    images = np.zeros((4, 3, 32, 32), np.uint8)
    long = "a very long caption that goes on and on and on " * 5
    plain = contact_sheet(images, 2)
    sheet = contact_sheet(images, 2, row_titles=[long, "x" * 300], col_titles=[long, "b"])
    left, top = sheet.width - plain.width, sheet.height - plain.height
    pixels = np.asarray(sheet.convert("L"))
    assert np.array_equal(pixels[top:, left:], np.asarray(plain.convert("L")))
    gap_between_columns = pixels[:top, left + 4 + 128 : left + 4 + 132]
    assert (gap_between_columns == 255).all()
    gap_between_rows = pixels[top + 4 + 128 : top + 4 + 132, :left]
    assert (gap_between_rows == 255).all()
    for row in range(2):
        assert (pixels[top + 4 + row * 132 :][:128, :left] < 128).any()
    for column in range(2):
        assert (pixels[:top, left + 4 + column * 132 :][:, :128] < 128).any()


def test_a_sheet_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 images"):
        contact_sheet(np.zeros((0, 3, 8, 8), np.uint8), 2)


def test_a_png_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 16, 16), np.uint8)
    path = tmp_path / "new" / "a.png"
    save_png(image, path)
    assert np.array_equal(open_image(path, 16, name="a"), image)

    def full(self: Image.Image, path: Path, _: str, **__: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(RunError, match="No space left"):
        save_png(255 - image, path)
    assert np.array_equal(open_image(path, 16, name="a"), image)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
