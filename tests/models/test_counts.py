"""Parameters and operations against the published tables."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

from yolo_lite.models import YOLO, build_model
from yolo_lite.utils.profiling import count_gflops, count_parameters


def build(variant: str, num_classes: int = 1, **parts: Any) -> YOLO:
    """A detector without memory behind its weights; not to be changed."""
    return build_once(variant, num_classes, tuple(sorted(parts.items())))


@functools.cache
def build_once(variant: str, num_classes: int, parts: tuple[tuple[str, Any], ...]) -> YOLO:
    with torch.device("meta"):
        return build_model(variant, num_classes, **dict(parts))


@pytest.mark.parametrize(
    ("scale", "num_classes", "expected"),
    [
        ("n", 1, 3_011_043),
        ("s", 1, 11_135_987),
        ("m", 1, 25_856_899),
        ("l", 1, 43_630_611),
        ("x", 1, 68_153_571),
        ("n", 80, 3_157_200),
        ("s", 80, 11_166_560),
        ("m", 80, 25_902_640),
        ("l", 80, 43_691_520),
        ("x", 80, 68_229_648),
    ],
)
def test_baseline_parameters(scale: str, num_classes: int, expected: int) -> None:
    assert count_parameters(build(f"yolov8{scale}", num_classes)) == expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, 3_011_043),
        ({"block": "cspc"}, 2_556_099),
        ({"block": "faster"}, 2_649_843),  # our own count: no published one
        ({"downsample": "haar"}, 2_793_923),
        ({"downsample": "adown"}, 2_728_163),
        ({"neck": "afpn"}, 2_109_041),
        ({"block": "cspc", "downsample": "haar"}, 2_338_979),
        ({"block": "cspc", "downsample": "adown"}, 2_273_219),
        ({"block": "cspc", "neck": "afpn"}, 1_654_097),
        ({"block": "cspc", "downsample": "haar", "neck": "afpn"}, 1_436_977),
        ({"block": "cspc", "downsample": "adown", "neck": "afpn"}, 1_371_217),
    ],
)
def test_steps_to_the_light_model(parts: dict[str, Any], expected: int) -> None:
    assert count_parameters(build("yolov8n", **parts)) == expected


def test_light_variants_are_these_steps() -> None:
    assert count_parameters(build("yolov8n-lite")) == 1_436_977
    assert count_parameters(build("yolov8n-lite-adown")) == 1_371_217


def test_the_edge_model_keeps_to_its_limits() -> None:
    """A million parameters and half the baseline's operations; its latency is measured in benchmarks/."""
    edge = build("yolov8n-edge")
    assert count_parameters(edge) == 792_483 <= 1_000_000
    assert count_gflops(edge, 640) == pytest.approx(2.84, abs=0.005)
    assert count_gflops(edge, 640) <= 4.0 <= count_gflops(build("yolov8n"), 640) / 2 + 0.05


@pytest.mark.parametrize("num_classes", [2, 3, 20, 32])
def test_each_class_adds_132_to_the_light_model(num_classes: int) -> None:
    assert count_parameters(build("yolov8n-lite", num_classes)) == 1_436_977 + 132 * (num_classes - 1)


@pytest.mark.parametrize(
    ("variant", "num_classes", "expected"),
    [("yolov8n", 1, 8.08), ("yolov8n", 80, 8.74), ("yolov8n-lite", 1, 12.99)],
)
def test_gflops_at_640(variant: str, num_classes: int, expected: float) -> None:
    assert count_gflops(build(variant, num_classes), 640) == pytest.approx(expected, rel=0.01)


def test_counting_leaves_the_mode_alone() -> None:
    model = build("yolov8n").train()
    count_gflops(model, 64)
    assert model.training
    count_gflops(model.eval(), 64)
    assert not model.training


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("backbone.stem", 464),
        ("backbone.stage2.down", 4_672),
        ("backbone.stage2.block", 7_360),
        ("backbone.stage3.down", 18_560),
        ("backbone.stage3.block", 49_664),
        ("backbone.stage4.down", 73_984),
        ("backbone.stage4.block", 197_632),
        ("backbone.stage5.down", 295_424),
        ("backbone.stage5.block", 460_288),
        ("backbone.pool", 164_608),
        ("neck.top_down.1", 148_224),
        ("neck.top_down.0", 37_248),
        ("neck.down.0", 36_992),
        ("neck.bottom_up.0", 123_648),
        ("neck.down.1", 147_712),
        ("neck.bottom_up.1", 493_056),
        ("head", 751_507),
    ],
)
def test_baseline_layers(part: str, expected: int) -> None:
    assert count_parameters(build("yolov8n").get_submodule(part)) == expected


def test_baseline_head_at_80_classes() -> None:
    assert count_parameters(build("yolov8n", 80).head) == 897_664


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("backbone.stem", 464),
        ("backbone.stage2.down", 2_144),
        ("backbone.stage2.block", 2_976),
        ("backbone.stage3.down", 8_384),
        ("backbone.stage3.block", 14_848),
        ("backbone.stage4.down", 33_152),
        ("backbone.stage4.block", 58_880),
        ("backbone.stage5.down", 131_840),
        ("backbone.stage5.block", 183_296),
        ("backbone.pool", 164_608),
        ("neck", 191_373),
        ("neck.reduce", 11_000),
        ("neck.pre", 1_480),
        ("neck.stages.0", 7_300),
        ("neck.stages.0.resample", 184),
        ("neck.stages.0.fuse.0", 282),
        ("neck.stages.0.fuse.1", 786),
        ("neck.stages.0.refine.0", 1_248),
        ("neck.stages.0.refine.1", 4_800),
        ("neck.stages.1", 30_985),
        ("neck.stages.1.resample", 2_000),
        ("neck.stages.1.fuse.0", 371),
        ("neck.stages.1.fuse.1", 907),
        ("neck.stages.1.fuse.2", 2_843),
        ("neck.stages.1.refine.2", 18_816),
        ("neck.stages.2", 131_904),
        ("neck.stages.2.resample", 17_480),
        ("neck.stages.2.fuse.0", 476),
        ("neck.stages.2.fuse.1", 1_044),
        ("neck.stages.2.fuse.2", 3_044),
        ("neck.stages.2.fuse.3", 10_500),
        ("neck.stages.2.refine.3", 74_496),
        ("neck.expand", 8_704),
        ("head.box", 460_032),
        ("head.box.0", 115_008),
        ("head.classes", 184_964),
        ("head.classes.3", 46_241),
    ],
)
def test_light_layers(part: str, expected: int) -> None:
    assert count_parameters(build("yolov8n-lite").get_submodule(part)) == expected


@pytest.mark.parametrize(("stage", "expected"), [(2, 1_344), (3, 5_248), (4, 20_736), (5, 82_432)])
def test_adown_layers(stage: int, expected: int) -> None:
    assert count_parameters(build("yolov8n-lite-adown").get_submodule(f"backbone.stage{stage}.down")) == expected


def test_resampling_convolutions_of_the_pyramid() -> None:
    """Finer to coarser: kernel = stride = 2, 4, 8 with padding 0, 1, 3; coarser to finer: 1x1."""
    last = build("yolov8n-lite").get_submodule("neck.stages.2.resample")
    for target in range(4):
        for source in range(4):
            found = [m for m in last.get_submodule(f"{target}.{source}").modules() if isinstance(m, nn.Conv2d)]
            if source == target:
                assert not found
                continue
            factor = 2 ** max(0, target - source)
            (conv,) = found
            assert conv.kernel_size == conv.stride == (factor, factor)
            assert conv.padding == ((factor - 1) // 2,) * 2
            assert (conv.in_channels, conv.out_channels) == (4 * 2**source, 4 * 2**target)


def test_norm_constants_everywhere() -> None:
    norms = [m for m in build("yolov8n-lite").modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}
