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

from yolo_lite.data.augment import AugmentConfig
from yolo_lite.data.datamodule import DetectionDataModule
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
    ],
)
def test_an_unknown_transform_is_one_line(extra: list[dict[str, dict[str, Any]]], expected: str) -> None:
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
