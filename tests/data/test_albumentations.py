"""The augmentation library stays on its last permissively licensed line and does not call home."""

from __future__ import annotations

import colorsys
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolo_lite.data.augment import AugmentConfig, Augmenter
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.data.geometry import MIN_VISIBLE_AREA, Drawn
from yolo_lite.data.transforms import jitter_colours
from yolo_lite.utils.errors import UserError

ROOT = Path(__file__).parents[2]


def test_installed_version_is_the_pinned_line() -> None:
    release = tuple(int(x) for x in version("albumentations").split(".")[:3])
    assert (2, 0, 8) <= release < (2, 1)


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({"albumentationsx": "2.1.3", "albumentations": "2.0.8"}, "albumentationsx 2.1.3 .*AGPL"),
        ({"albumentations": "2.1.0"}, "albumentations 2.1.0"),
        ({"albumentations": "1.4.24"}, "albumentations 1.4.24"),
    ],
)
def test_the_successor_is_refused(
    installed: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fake_version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr("yolo_lite.data.transforms.version", fake_version)
    with pytest.raises(UserError, match=expected):
        DetectionDataModule(tmp_path)


def test_requirements_pin_it() -> None:
    lines = [line.replace(" ", "") for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert "albumentations>=2.0.8,<2.1" in lines
    assert not any(line.startswith("albumentationsx") for line in lines)


def test_importing_the_transforms_forbids_the_update_check() -> None:
    """In a fresh process without the variable, and before albumentations is there."""
    code = (
        "import sys, os\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'albumentations':\n"
        "            assert os.environ.get('NO_ALBUMENTATIONS_UPDATE') == '1', 'set too late'\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import yolo_lite.data.transforms\n"
        "assert 'albumentations' in sys.modules\n"
        "print(os.environ['NO_ALBUMENTATIONS_UPDATE'])\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_colour_jitter_leaves_grey_grey(strength: float) -> None:
    image = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    out = jitter_colours(image, np.array([strength / 10, strength, strength]))
    assert (out.max(axis=2) == out.min(axis=2)).all()
    assert np.array_equal(out, image) == (strength == 0)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ([{"GausNoise": {}}], "no transform GausNoise .*GaussNoise"),
        ([{"GaussNoise": {"strength": 3}}], "strength"),
        ([{"Compose": {"transforms": []}}], "no transform Compose"),
        ([{"RandomGamma": {"gamma_limit": "much"}}], "RandomGamma"),
        (["GaussNoise"], "'GaussNoise' is no transform with its options"),
        ({"GaussNoise": {}}, "no list of transforms"),
        ([{"GaussNoise": 0.5}], "options of GaussNoise are 0.5"),
        ([{"OneOf": {"p": 0.5}}], "None is no list of transforms"),
        # What would fail in the loader, in the first batch or in the thousandth.
        ([{"Normalize": {"p": 0.01}}], "Normalize cannot be used: it makes pixels float32"),
        ([{"RandomCrop": {"height": 48, "width": 48, "p": 0.5}}], "331x331x3 ones of 48x48x3"),
        ([{"Resize": {"height": 640, "width": 640}}], "331x331x3 ones of 640x640x3"),
        ([{"OverlayElements": {}}], "OverlayElements cannot be used"),
        ([{"Mosaic": {}}], "Mosaic cannot be used"),
        ([{"FDA": {"reference_images": [], "read_fn": "x"}}], "FDA"),
        ([{"OneOf": {"transforms": [{"GaussNoise": {}}, {"Normalize": {}}]}}], "Normalize cannot be used"),
    ],
)
def test_an_unknown_transform_is_one_line(extra: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        AugmentConfig(extra=extra)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("hue", [0.0, 0.015, -0.02, 0.1, 0.5])
@pytest.mark.parametrize("factors", [(0.6, 0.7), (0.8, 1.3)])
def test_colour_jitter_multiplies_and_turns(hue: float, factors: tuple[float, float]) -> None:
    """Against the definition, pixel by pixel, in floating point."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    out = jitter_colours(image, np.array([hue, factors[0] - 1, factors[1] - 1])) / 255
    for before, after in zip(image.reshape(-1, 3) / 255, out.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before)
        if v * factors[1] <= 1:  # beyond white, each of the two ways has colours of its own
            np.testing.assert_allclose(
                after, colorsys.hsv_to_rgb((h + hue) % 1, s * factors[0], v * factors[1]), atol=0.04
            )


def test_colours_that_cannot_get_stronger_stay_within_bounds() -> None:
    image = np.array([[[255, 0, 0], [200, 100, 50], [255, 255, 255], [0, 0, 0]]], dtype=np.uint8)
    out = jitter_colours(image, np.array([0.0, 1.0, 0.5]))
    assert out.tolist() == [[[255, 0, 0], [255, 0, 0], [255, 255, 255], [0, 0, 0]]]


def augmented(extra: list[dict[str, Any]], drawn: Drawn, count: int) -> list[Drawn]:
    augmenter = Augmenter(AugmentConfig(extra=extra), 128, lambda _: drawn, 1)
    return [augmenter.transform(drawn, np.random.default_rng(i)) for i in range(count)]


def test_one_of_several_transforms() -> None:
    """Each box goes with its image, and the probability is that of the whole."""
    image = np.zeros((128, 128, 3), np.uint8)
    image[10:40, 20:60] = 200
    drawn = Drawn(image, np.array([[20, 10, 60, 40]], np.float32), np.array([3]))
    mirrors = [{"HorizontalFlip": {"p": 1}}, {"VerticalFlip": {"p": 1}}]
    found = set()
    for image, boxes, labels in augmented([{"OneOf": {"p": 0.7, "transforms": mirrors}}], drawn, 40):
        rows, columns = np.nonzero(image[..., 0])
        assert boxes.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
        assert labels.tolist() == [3]
        found.add((int(columns.min()), int(rows.min())))
    assert found == {(20, 10), (68, 10), (20, 88)}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("CoarseDropout", {"num_holes_range": (1, 8), "hole_height_range": (0.1, 0.5), "hole_width_range": (0.1, 0.5)}),
        ("XYMasking", {"num_masks_x": 3, "num_masks_y": 3, "mask_x_length": (5, 30), "mask_y_length": (5, 30)}),
        ("Affine", {"translate_percent": (-0.6, 0.6)}),
    ],
)
def test_a_box_of_which_nearly_nothing_is_left_is_dropped(name: str, options: dict[str, Any]) -> None:
    image = np.zeros((128, 128, 3), np.uint8)
    image[50:74, 40:72] = (255, 0, 0)
    drawn = Drawn(image, np.array([[40, 50, 72, 74]], np.float32), np.array([0]))
    kept = lost = 0
    for image, boxes, _ in augmented([{name: {"p": 1, **options}}], drawn, 200):
        seen = int((image == (255, 0, 0)).all(axis=2).sum()) / (24 * 32)
        kept += len(boxes)
        lost += not len(boxes)
        assert seen >= MIN_VISIBLE_AREA - 0.03 if len(boxes) else seen <= MIN_VISIBLE_AREA + 0.03
    assert kept > 20
    assert lost > 5
