"""Image files: what is refused and why, and what is decoded to upright RGB."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from yolo_lite.data.images import (
    ImageProblem,
    inspect_image,
    read_image,
    resize_image,
    resized_shape,
)
from yolo_lite.utils.errors import UserError

HEIGHT, WIDTH = 40, 60


def picture() -> np.ndarray:
    """Red at the top left, green at the top right, blue below: every turn shows."""
    image = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[:20, :30, 0] = 250
    image[:20, 30:, 1] = 250
    image[20:, :, 2] = 250
    return image


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to what JPEG does at edges."""
    return a.shape == b.shape and np.abs(a.astype(int) - b.astype(int)).mean() < 12


def reason(path: Path) -> str:
    result = inspect_image(path)
    assert isinstance(result, ImageProblem)
    assert str(path) in str(result)
    return result.reason


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(picture()).save(path)
    assert inspect_image(path) == (HEIGHT, WIDTH)
    image = read_image(path)
    assert image.dtype == np.uint8
    assert close(image, picture())


@pytest.mark.parametrize(("mode", "suffix"), [("L", ".jpg"), ("L", ".png"), ("1", ".png"), ("LA", ".png")])
def test_grey_images(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    grey = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    grey[10:30, 10:30] = 255
    Image.fromarray(grey).convert(mode).save(path)
    assert inspect_image(path) == (HEIGHT, WIDTH)
    assert close(read_image(path), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_colours_with_transparency_or_palette(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.png"
    image = Image.fromarray(picture())
    if mode == "RGBA":
        image.putalpha(255)
    else:
        image = image.convert("P", palette=Image.Palette.ADAPTIVE)
    assert image.mode == mode
    image.save(path)
    assert inspect_image(path) == (HEIGHT, WIDTH)
    assert close(read_image(path), picture())


def test_sixteen_bits(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    deep = np.zeros((HEIGHT, WIDTH), dtype=np.uint16)
    deep[:, 30:] = 60_000
    Image.fromarray(deep).save(path)
    image = read_image(path)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8
    assert image[5, 5, 0] < 10
    assert image[5, 50, 0] > 200


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_by_exif(tmp_path: Path, orientation: int, suffix: str) -> None:
    """Stored so that applying the orientation gives the upright picture."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = Image.fromarray(picture())
    stored = image.transpose(undo[orientation]) if orientation > 1 else image
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"image{suffix}"
    stored.save(path, exif=exif)
    upright = read_image(path)
    assert inspect_image(path) == upright.shape[:2], "the size that was checked is not the size that is decoded"
    assert close(upright, picture())


def test_a_pgm_of_sixteen_bits(tmp_path: Path) -> None:
    path = tmp_path / "image.pgm"
    deep = np.zeros((HEIGHT, WIDTH), dtype=">u2")
    deep[:, 30:] = 1000
    path.write_bytes(b"P5 60 40 1000\n" + deep.tobytes())  # a full scale of its own
    assert inspect_image(path) == (HEIGHT, WIDTH)
    image = read_image(path)
    assert image[5, 5].tolist() == [0, 0, 0]
    assert image[5, 50].tolist() == [255, 255, 255]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_much_may_follow_the_end(tmp_path: Path, suffix: str) -> None:
    """As the film behind the picture of a phone. A thumbnail's end is not the picture's."""
    path = tmp_path / f"image{suffix}"
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (200, 200, 3)).astype(np.uint8)
    thumbnail = io.BytesIO()
    Image.fromarray(noise[:20, :20]).save(thumbnail, "JPEG")
    exif = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail.getvalue()
    Image.fromarray(noise).save(path, **({"exif": exif} if suffix == ".jpg" else {}))
    content = path.read_bytes()
    path.write_bytes(content + bytes(10_000))
    assert inspect_image(path) == (200, 200)
    assert read_image(path).shape == (200, 200, 3)
    for end in (len(content) // 2, len(content) - 20, len(content) - 2):
        path.write_bytes(content[:end])
        assert reason(path) == "truncated"
        path.write_bytes(content[:end] + bytes(10_000))
        assert reason(path) == "truncated"


def test_missing(tmp_path: Path) -> None:
    assert reason(tmp_path / "none.jpg") == "missing"
    with pytest.raises(UserError, match=r"none\.jpg"):
        read_image(tmp_path / "none.jpg")


@pytest.mark.parametrize("content", [b"", b"hello, this is a text", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_not_an_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    assert reason(path)
    with pytest.raises(UserError, match=r"image\.jpg") as error:
        read_image(path)
    assert "\n" not in str(error.value)


def test_a_text_says_so(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_text("404 not found")
    assert reason(path) == "not an image"


def test_heic_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "image.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert reason(path) == "HEIC, which is not read: save it as JPEG"


def test_folder_named_as_an_image(tmp_path: Path) -> None:
    (tmp_path / "image.jpg").mkdir()
    assert reason(tmp_path / "image.jpg")


@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
def test_truncated(tmp_path: Path, format_: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format_)
    path = tmp_path / "image"
    data = buffer.getvalue()
    path.write_bytes(data)
    assert inspect_image(path) == (HEIGHT, WIDTH)
    path.write_bytes(data[: int(len(data) * share)])
    assert reason(path) == "truncated"


@pytest.mark.parametrize("format_", ["BMP", "TIFF", "GIF", "WEBP"])
def test_truncated_without_an_end_marker(tmp_path: Path, format_: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    path = tmp_path / "image"
    Image.fromarray(noise).save(path, format_)
    assert inspect_image(path) == (HEIGHT, WIDTH)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert isinstance(inspect_image(path), ImageProblem)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_inspection_does_not_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """Only header and end are read: decoding a whole data set before the first epoch would take minutes."""
    path = tmp_path / f"image{suffix}"
    Image.fromarray(picture()).save(path)
    decoded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.append(self) or load(self))
    assert inspect_image(path) == (HEIGHT, WIDTH)
    assert not decoded


def test_bytes_after_the_end_are_tolerated(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    Image.fromarray(picture()).save(path)
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    assert inspect_image(path) == (HEIGHT, WIDTH)


def test_a_thumbnail_does_not_hide_the_missing_end(tmp_path: Path) -> None:
    """The header may hold a whole small JPEG with an end marker of its own."""
    thumbnail = io.BytesIO()
    Image.fromarray(picture()[:8, :8]).save(thumbnail, "JPEG")
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + thumbnail.getvalue()
    path = tmp_path / "image.jpg"
    Image.fromarray(noise).save(path, quality=95, exif=exif)
    path.write_bytes(path.read_bytes()[:20_000])
    assert reason(path) == "truncated"


def test_resizing_keeps_the_aspect() -> None:
    assert resized_shape(96, 128, 64) == (48, 64)
    assert resized_shape(128, 96, 640) == (640, 480)
    assert resized_shape(1, 5000, 64) == (1, 64)
    assert resize_image(picture(), 20, 30).shape == (20, 30, 3)
    assert resize_image(picture(), 80, 120).shape == (80, 120, 3)
    same = picture()
    assert resize_image(same, HEIGHT, WIDTH) is same
