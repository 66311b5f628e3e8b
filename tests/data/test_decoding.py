"""Files of every kind of pixel come out as upright 8-bit RGB, compared with Pillow or with what was drawn."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageChops, features

from yolo_lite.data.geometry import FILL as BACKGROUND
from yolo_lite.data.images import ImageProblem, inspect_image, read_image
from yolo_lite.utils.errors import UserError

HEIGHT, WIDTH = 40, 60
UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def smooth(channels: int = 3) -> np.ndarray:
    """(HEIGHT, WIDTH, channels) uint8 with soft edges, other in every corner: any turn and any inversion shows."""
    coarse = np.random.default_rng(1).integers(0, 256, (4, 6, channels)).astype(np.uint8)
    image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    return image.reshape(HEIGHT, WIDTH, channels)


def read(path: Path) -> np.ndarray:
    """The image, after making sure that it is what was inspected."""
    image = read_image(path)
    assert image.dtype == np.uint8
    assert inspect_image(path) == image.shape[:2]
    assert image.flags.c_contiguous
    return image


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over all values; infinite where the shapes differ."""
    return float(np.abs(a.astype(int) - b).mean()) if a.shape == b.shape else np.inf


def grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(image.reshape(HEIGHT, WIDTH, 1), 3, axis=2)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_every_format(tmp_path: Path, suffix: str, orientation: int) -> None:
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    image = Image.fromarray(smooth())
    stored = image.transpose(UNDO[orientation]) if orientation > 1 else image
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"image{suffix}"
    stored.save(path, exif=exif)
    assert difference(read(path), smooth()) < 6


@pytest.mark.parametrize("orientation", [1, 6])
def test_orientation_of_files_that_pillow_decodes(tmp_path: Path, orientation: int) -> None:
    """With transparency a PNG takes another way."""
    image = Image.fromarray(smooth()).convert("RGBA")
    exif = Image.Exif()
    exif[274] = orientation
    (image.transpose(UNDO[6]) if orientation == 6 else image).save(tmp_path / "a.png", exif=exif)
    assert difference(read(tmp_path / "a.png"), smooth()) == 0


def test_libraries_that_see_another_orientation_do_not_shift_labels(tmp_path: Path) -> None:
    """EXIF behind the pixels: OpenCV would turn the image, the inspection of the header does not see it."""
    exif = Image.Exif()
    exif[274] = 6
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, "PNG", exif=exif)
    data = buffer.getvalue()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    last = data.index(b"IEND") - 4
    (tmp_path / "image.png").write_bytes(data[:start] + data[end:last] + data[start:end] + data[last:])
    assert difference(read(tmp_path / "image.png"), smooth()) == 0


def test_damaged_exif_says_nothing(tmp_path: Path) -> None:
    Image.fromarray(smooth()).save(tmp_path / "image.jpg", exif=b"Exif\0\0" + b"XX\0*" * 9, quality=95)
    assert difference(read(tmp_path / "image.jpg"), smooth()) < 6


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_keep_full_scale(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    deep = smooth(1)[..., 0].astype(np.uint16) * 257
    Image.fromarray(deep).save(path)
    assert difference(read(path), grey(smooth(1))) <= 1


@pytest.mark.parametrize(("channels", "suffix"), [(3, ".png"), (4, ".png"), (3, ".tif")])
def test_sixteen_bits_in_colour(tmp_path: Path, channels: int, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    deep = smooth(channels).astype(np.uint16) * 257
    if channels == 4:
        deep[..., 3] = 65535
    order = [2, 1, 0, 3][:channels]
    assert cv2.imwrite(str(path), deep[..., order])
    assert difference(read(path), smooth(channels)[..., :3]) <= 1


def test_sixteen_bits_are_not_stretched(tmp_path: Path) -> None:
    """Two images of one camera keep their relation, whatever their brightest pixels are."""
    for name, value in (("dark", 1000), ("bright", 60000)):
        Image.fromarray(np.full((HEIGHT, WIDTH), value, dtype=np.uint16)).save(tmp_path / f"{name}.png")
    assert read(tmp_path / "dark.png")[0, 0, 0] == 1000 // 256
    assert read(tmp_path / "bright.png")[0, 0, 0] == 60000 // 256


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_32_bits_are_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.tif"
    Image.new(mode, (WIDTH, HEIGHT), 100).save(path)
    problem = inspect_image(path)
    assert isinstance(problem, ImageProblem)
    assert "32 bits" in problem.reason
    with pytest.raises(UserError, match=r"image\.tif.*32 bits"):
        read_image(path)


def save_cmyk(path: Path, has_marker: bool) -> np.ndarray:
    """A CMYK JPEG as Adobe writes it, inverted and marked, or as the standard has it; returns its colours."""
    cmyk = Image.fromarray(smooth()).convert("CMYK")
    buffer = io.BytesIO()
    # Pillow inverts what it writes, as Adobe does, and libjpeg adds Adobe's marker.
    (cmyk if has_marker else ImageChops.invert(cmyk)).save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    start = data.index(b"\xff\xee")
    if not has_marker:
        data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
    path.write_bytes(data)
    return np.asarray(cmyk.convert("RGB"))


@pytest.mark.parametrize("has_marker", [True, False], ids=["Adobe", "plain"])
def test_cmyk(tmp_path: Path, has_marker: bool) -> None:
    expected = save_cmyk(tmp_path / "image.jpg", has_marker)
    assert difference(read(tmp_path / "image.jpg"), expected) < 6
    assert difference(expected, smooth()) < 1


def test_cmyk_that_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    image = Image.fromarray(smooth()).convert("CMYK").transpose(UNDO[6])
    image.save(tmp_path / "image.jpg", exif=exif, quality=95)
    assert difference(read(tmp_path / "image.jpg"), smooth()) < 6


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", ".jpg"), ("L", ".png"), ("1", ".png"), ("1", ".tif"), ("P", ".gif")]
)
def test_grey_bits_and_palettes(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(smooth()).convert(mode).save(path)
    with Image.open(path) as stored:
        expected = np.asarray(stored.convert("RGB"))
    assert difference(read(path), expected) < 1


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_what_is_transparent_shows_grey(tmp_path: Path, suffix: str) -> None:
    """The colours under transparent pixels are arbitrary, and nobody has ever seen them."""
    image = Image.fromarray(smooth())
    alpha = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    alpha[:, :20], alpha[:, 20:40] = 0, 128
    image.putalpha(Image.fromarray(alpha))
    path = tmp_path / f"image{suffix}"
    image.save(path, **({"lossless": True, "exact": True} if suffix == ".webp" else {}))
    share = alpha[..., None] / 255
    expected = smooth() * share + BACKGROUND * (1 - share)
    assert difference(read(path), expected.round().astype(int)) < 1


def test_transparent_grey(tmp_path: Path) -> None:
    image = Image.fromarray(smooth(1)[..., 0])
    image.putalpha(0)
    assert image.mode == "LA"
    image.save(tmp_path / "image.png")
    assert (read(tmp_path / "image.png") == BACKGROUND).all()


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_one_transparent_colour(tmp_path: Path, mode: str) -> None:
    """PNG's tRNS chunk, which has no alpha channel."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (250, 250, 250))
    image.paste((10, 10, 10), (0, 0, 20, HEIGHT))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "image.png", transparency=image.getpixel((0, 0)))
    result = read(tmp_path / "image.png")
    assert (result[:, :20] == BACKGROUND).all()
    assert (result[:, 20:] == 250).all()


def test_first_picture_of_an_animation(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (WIDTH, HEIGHT), (200, 0, 0)), Image.new("RGB", (WIDTH, HEIGHT), (0, 0, 200))
    for suffix in (".gif", ".webp"):
        first.save(tmp_path / f"image{suffix}", save_all=True, append_images=[second], lossless=True)
        assert difference(read(tmp_path / f"image{suffix}"), np.asarray(first)) < 2


def test_progressive_jpeg(tmp_path: Path) -> None:
    Image.fromarray(smooth()).save(tmp_path / "image.jpg", progressive=True, quality=95)
    with Image.open(tmp_path / "image.jpg") as stored:
        assert difference(read(tmp_path / "image.jpg"), np.asarray(stored)) < 1


def test_ordinary_files_do_not_take_the_slow_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in (".jpg", ".png"):
        Image.fromarray(smooth()).save(tmp_path / f"image{suffix}")
    monkeypatch.setattr("yolo_lite.data.decoding.to_rgb", None)
    for suffix in (".jpg", ".png"):
        assert read_image(tmp_path / f"image{suffix}").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("content", [b"\xff\xd8", b"\xff\xd8" + b"\xff" * 50, b"\xff\xd8\xff\xe0\x00\x00" * 20])
def test_beginnings_of_a_jpeg(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "image.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"image\.jpg"):
        read_image(tmp_path / "image.jpg")


@pytest.mark.parametrize(("at_least", "divisor"), [(None, 1), (640, 1), (400, 1), (320, 2), (161, 2), (160, 4), (9, 8)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_at_the_size_that_is_needed(
    tmp_path: Path, at_least: int | None, divisor: int, orientation: int
) -> None:
    """Half, a quarter or an eighth, never below what is asked for, and the same picture as from all pixels."""
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "large.jpg"
    Image.fromarray(smooth).save(path, quality=95, exif=exif)
    whole, found = read_image(path), read_image(path, at_least)
    height, width = whole.shape[:2]
    assert found.shape == (height // divisor, width // divisor, 3)
    expected = cv2.resize(whole, found.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(expected.astype(int) - found).mean() < 2
