"""Pruning to the channels of a narrower detector: what is taken away is what matters least."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from yolo_lite.models import build_model
from yolo_lite.models.blocks import C2f
from yolo_lite.training.initial_weights import InitialWeights
from yolo_lite.training.module import DetectionModule
from yolo_lite.utils.errors import UserError

prune = pytest.importorskip("benchmarks.prune", reason="torch-pruning is not installed (requirements-dev.txt)")


def test_halves_are_the_whole() -> None:
    """The form that is pruned computes the same, and its state dict goes back to the usual names."""
    torch.manual_seed(0)
    block = C2f(8, 12, depth=2, shortcut=True).eval()
    model = nn.Sequential(block)
    x = torch.randn(2, 8, 5, 5)
    expected, state = block(x), model.state_dict()
    halved = nn.Sequential(prune.HalvedC2f(block)).eval()
    torch.testing.assert_close(halved(x), expected)
    back = prune.whole_state(halved.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())


def test_the_same_width_is_the_same_model() -> None:
    torch.manual_seed(0)
    model, other = (build_model("yolov8n", 2).eval() for _ in range(2))
    prune.prune_model(model, other)
    x = torch.rand(1, 3, 64, 64)
    for a, b in zip(model(x), other(x), strict=True):
        torch.testing.assert_close(a, b)


def test_channels_without_weights_go_first() -> None:
    """A narrow detector in the midst of a wide one whose other channels are zero comes out as it was.

    Channels of the narrow one are spread over the wide one; torch-pruning has to find all that belong to each.
    """
    torch.manual_seed(0)
    wide, narrow = build_model("yolov8n", 2).eval(), build_model("yolov8n", 2, width=0.16).eval()
    for module in narrow.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    prune.halve(wide)
    halved = build_model("yolov8n", 2, width=0.16)
    halved.load_state_dict(narrow.state_dict())
    prune.halve(halved)
    with torch.no_grad():
        embed(wide, halved)
    whole = build_model("yolov8n", 2).eval()
    whole.load_state_dict(prune.whole_state(wide.state_dict()))
    found = build_model("yolov8n", 2, width=0.16).eval()
    prune.prune_model(whole, found)
    x = torch.rand(1, 3, 64, 64)
    for before, after, expected in zip(whole(x), found(x), narrow(x), strict=True):
        torch.testing.assert_close(before, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


def embed(wide: nn.Module, narrow: nn.Module) -> None:
    """Put the weights of a narrow detector in the first channels of a wide one, map by map; the others become zero.

    Where maps are concatenated, each map's channels begin where they begin in the wide one.
    """
    widths = {name: (m.out_channels, m.in_channels) for name, m in wide.named_modules() if isinstance(m, nn.Conv2d)}
    for name, module in wide.named_modules():
        if isinstance(module, nn.Conv2d):
            own = narrow.get_submodule(name)
            maps = concatenated(name, widths, wide)
            small = concatenated(name, {}, narrow)
            weight = torch.zeros_like(module.weight)
            start, begin = 0, 0
            for large, little in zip(maps, small, strict=True):
                weight[: own.weight.shape[0], start : start + little] = own.weight[:, begin : begin + little]
                start, begin = start + large, begin + little
            module.weight.copy_(weight)
            if module.bias is not None:
                module.bias.zero_()[: len(own.bias)] = own.bias
        elif isinstance(module, nn.BatchNorm2d):
            own = narrow.get_submodule(name)
            for key in ("weight", "bias"):
                getattr(module, key).zero_()[: own.num_features] = getattr(own, key)


def concatenated(name: str, widths: dict[str, Any], model: nn.Module) -> list[int]:
    """Channels of each of the maps that a convolution reads side by side."""
    module = model.get_submodule(name)
    parent = model.get_submodule(name.rpartition(".merge")[0]) if ".merge." in name else None
    if isinstance(parent, prune.HalvedC2f):
        half = parent.halves[0].conv.out_channels
        return [half] * (module.in_channels // half)
    if name == "backbone.pool.merge.conv":
        return [module.in_channels // 4] * 4
    channels = model.spec.channels()
    if name.startswith("neck.top_down") and ".halves." in name:
        level = int(name.split(".")[2])
        return [channels[level + 3], channels[level + 2]]
    if name.startswith("neck.bottom_up") and ".halves." in name:
        level = int(name.split(".")[2])
        return [channels[level + 2], channels[level + 3]]
    return [module.in_channels]


def save(path: Path, **settings: Any) -> Path:
    """An untrained checkpoint."""
    torch.manual_seed(0)
    module = DetectionModule(class_names=["a", "b"], image_size=64, **settings)
    identity = {"format": 1, "class_names": ["a", "b"], "variant": module.hparams["variant"], "image_size": 64}
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "yolo_lite": identity}
    torch.save({**content, "pytorch-lightning_version": "2.6"}, path)
    return path


def test_the_file_is_a_checkpoint_to_start_from(tmp_path: Path) -> None:
    source, target = save(tmp_path / "best.ckpt", variant="yolov8n"), tmp_path / "pruned.ckpt"
    assert prune.main([str(source), "--width", "0.16", "--out", str(target)]) == 0
    module = DetectionModule.load_from_checkpoint(target, map_location="cpu")
    assert module.hparams["width"] == 0.16
    assert sum(p.numel() for p in module.model.parameters()) < 1_600_000
    assert InitialWeights.read(target)  # what --weights takes


@pytest.mark.parametrize(
    ("settings", "width", "words"),
    [
        ({"variant": "yolov8n-lite"}, 0.16, "only YOLOv8's own are pruned"),
        ({"variant": "yolov8n"}, 0.25, "--width 0.25: give less than the 0.25"),
        ({"variant": "yolov8n"}, 0.0, "--width 0.0"),
    ],
)
def test_what_cannot_be_pruned_is_one_line(settings: Any, width: float, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as error:
        prune.prune_file(save(tmp_path / "best.ckpt", **settings), width, tmp_path / "new.ckpt")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new.ckpt").exists()


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    source = save(tmp_path / "best.ckpt", variant="yolov8n")
    before = source.read_bytes()
    assert prune.main([str(source), "--width", "0.16", "--out", str(source)]) == 2
    assert source.read_bytes() == before
