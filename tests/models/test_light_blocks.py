"""Haar down-sampling, partial convolutions, ADown and adaptive fusion against their definitions, written plainly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from yolo_lite.models.afpn import ASFF
from yolo_lite.models.blocks import C2f
from yolo_lite.models.lite_blocks import CSPPC, ADown, FasterBlock, HaarDown


def haar_transform(x: torch.Tensor) -> torch.Tensor:
    """The definition: four bands of each 2x2 block p q / r s, band by band; (B, C, H, W) -> (B, 4C, H/2, W/2)."""
    p, q = x[..., 0::2, 0::2], x[..., 0::2, 1::2]
    r, s = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
    return torch.cat([(p + q + r + s) / 2, (p + q - r - s) / 2, (p - q + r - s) / 2, (p - q - r + s) / 2], dim=1)


def bands_of(x: torch.Tensor) -> torch.Tensor:
    """What a HaarDown hands to its convolution: its kernel with the identity for weights."""
    channels = x.shape[1]
    block = HaarDown(channels, 4 * channels).to(x.dtype)
    with torch.no_grad():
        block.conv.weight.copy_(torch.eye(4 * channels).view(4 * channels, 4 * channels, 1, 1))
        return F.conv2d(x, block.kernel(), stride=2)


def test_bands_of_one_block() -> None:
    x = torch.tensor([[1.0, 2.0], [4.0, 8.0]]).view(1, 1, 2, 2)
    expected = torch.tensor([15.0, -9.0, -5.0, 3.0]) / 2
    torch.testing.assert_close(bands_of(x).flatten(), expected)


def test_bands_go_one_after_the_other() -> None:
    x = torch.rand(2, 3, 6, 8)
    bands = bands_of(x)
    assert bands.shape == (2, 12, 3, 4)
    torch.testing.assert_close(bands, haar_transform(x))


@pytest.mark.parametrize("seed", range(3))
def test_bands_are_orthonormal(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 1, 3, 8, 12, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(bands_of(x).square().sum(), x.square().sum())
    torch.testing.assert_close((bands_of(x) * bands_of(y)).sum(), (x * y).sum())


def test_haar_down_is_transform_and_convolution() -> None:
    torch.manual_seed(0)
    block = HaarDown(5, 7).eval()
    block.norm.running_mean.normal_()
    block.norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 5, 16, 12)
    with torch.no_grad():
        expected = F.relu(block.norm(F.conv2d(haar_transform(x), block.conv.weight, block.conv.bias)))
        torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


def test_haar_down_in_bfloat16_autocast() -> None:
    torch.manual_seed(0)
    block = HaarDown(8, 16).train()
    x = torch.randn(2, 8, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = block(x)
    low.float().sum().backward()
    assert block.conv.weight.grad.isfinite().all()
    torch.testing.assert_close(low.float(), block(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_cspc_is_its_definition(depth: int) -> None:
    """The chain written with whole tensors: each unit changes its first quarter of the channels only."""
    torch.manual_seed(depth)
    block = CSPPC(12, 16, depth).eval()
    x = torch.randn(2, 12, 9, 7)
    with torch.no_grad():
        first, second = block.split(x).chunk(2, dim=1)
        parts = [first, second]
        for unit in block.units:
            y = parts[-1].clone()
            for conv in (unit.conv1, unit.conv2):
                y[:, :2] = F.conv2d(y[:, :2], conv.weight, padding=1)
            parts.append(y)
        torch.testing.assert_close(block(x), block.merge(torch.cat(parts, dim=1)))


def test_faster_block_is_its_definition() -> None:
    torch.manual_seed(0)
    block = FasterBlock(16).eval()
    x = torch.randn(2, 16, 6, 5)
    with torch.no_grad():
        mixed = x.clone()
        mixed[:, :4] = F.conv2d(x[:, :4], block.partial.weight, padding=1)
        y = F.silu(block.expand.norm(F.conv2d(mixed, block.expand.conv.weight)))
        torch.testing.assert_close(block(x), x + F.conv2d(y, block.project.weight))


@pytest.mark.parametrize("shortcut", [True, False])
def test_c2f_is_its_definition(shortcut: bool) -> None:
    torch.manual_seed(0)
    block = C2f(8, 12, 2, shortcut).eval()
    x = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        first, second = block.split(x).chunk(2, dim=1)
        third = block.units[0].conv2(block.units[0].conv1(second)) + second * shortcut
        fourth = block.units[1].conv2(block.units[1].conv1(third)) + third * shortcut
        torch.testing.assert_close(block(x), block.merge(torch.cat([first, second, third, fourth], dim=1)))


def test_adown_is_its_definition() -> None:
    torch.manual_seed(0)
    block = ADown(8, 12).eval()
    x = torch.randn(2, 8, 10, 14)
    with torch.no_grad():
        first, second = F.avg_pool2d(x, 2, 1).split(4, dim=1)
        expected = torch.cat([block.conv(first), block.project(F.max_pool2d(second, 3, 2, 1))], dim=1)
        y = block(x)
    assert y.shape == (2, 12, 5, 7)
    torch.testing.assert_close(y, expected)


def test_fusion_weights_sum_to_one() -> None:
    """Equal inputs come out of the weighted sum as they went in."""
    torch.manual_seed(0)
    fuse = ASFF(4, 3).eval()
    x = torch.randn(2, 4, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(fuse([x, x, x]), fuse.out(x), rtol=1e-4, atol=1e-5)
