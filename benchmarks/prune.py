"""Prune a trained detector to the channels of a narrower one, to be fine-tuned: another road to a light model.

    python -m benchmarks.prune best.ckpt --width 0.16 --out pruned.ckpt
    python train.py --weights pruned.ckpt --model.width 0.16 ...

Which channels go together is told by torch-pruning's dependency graph; of each such group those go whose weights are
smallest together (DepGraph, arXiv:2301.12900, magnitude with p = 2). How many go is fixed by the narrower detector, so
that what is left is an ordinary checkpoint.

Exit codes: 0 written, 2 something that you can mend (one line says what). Notation: B images, H x W pixels of a map.
"""

from __future__ import annotations

import argparse
import copy
import logging
import sys
import warnings
from pathlib import Path

import torch
import torch_pruning
from torch import Tensor, nn

from yolo_lite.models.blocks import C2f, ConvNormAct, chain, replace_modules
from yolo_lite.models.pafpn import TopDown, enlarge
from yolo_lite.models.yolo import YOLO
from yolo_lite.training.module import DetectionModule
from yolo_lite.utils.checkpoints import read_checkpoint
from yolo_lite.utils.console import run_command
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import check_new, replacing

log = logging.getLogger("yolo_lite.prune")  # a child of the package's logger, which has the handlers

TRACED_SIZE = 64  # pixels of the image that the graph is traced with; the graph does not depend on it


class HalvedC2f(nn.Module):
    """A C2f with a convolution for each half of its split's output: what each half keeps can be told apart.

    Args:
        block: whose weights it takes.
    """

    def __init__(self, block: C2f) -> None:
        super().__init__()
        split = block.split.conv
        self.halves = nn.ModuleList(ConvNormAct(split.in_channels, split.out_channels // 2) for _ in range(2))
        for part, half in enumerate(self.halves):
            own = {name: v.chunk(2)[part] if v.dim() else v for name, v in block.split.state_dict().items()}
            half.load_state_dict(own)
        self.units, self.merge = block.units, block.merge

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        return chain([half(x) for half in self.halves], self.units, self.merge)


class HalvedTopDown(HalvedC2f):
    """The same of a `TopDown`."""

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:  # type: ignore[override]
        """(B, coarse channels, H, W), (B, fine channels, 2H, 2W) -> (B, out, 2H, 2W)."""
        return super().forward(torch.cat([enlarge(coarse), fine], dim=1))


def halve(model: nn.Module) -> None:
    """Every C2f of a model becomes a `HalvedC2f`."""

    def halved(module: nn.Module) -> nn.Module | None:
        if isinstance(module, TopDown):
            return HalvedTopDown(module)
        return HalvedC2f(module) if isinstance(module, C2f) else None

    replace_modules(model, halved)


def whole_state(halved: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a model that was halved, as it was named before."""
    state = {}
    for name, value in halved.items():
        if ".halves.1." in name:
            continue
        other = halved.get(name.replace(".halves.0.", ".halves.1."))
        state[name.replace(".halves.0.", ".split.")] = (
            torch.cat([value, other]) if ".halves.0." in name and other is not None and value.dim() else value
        )
    return state


def prune_model(model: YOLO, narrow: YOLO) -> None:
    """Give `narrow`, made like `model` with fewer channels, the channels of `model` that matter most.

    Args:
        model: trained; it is left as it is.
        narrow: takes the weights.
    """
    pruned, targets = copy.deepcopy(model).eval(), copy.deepcopy(narrow)
    halve(pruned)
    halve(targets)
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unwrapped parameters")  # the head's bins, a constant
        image = torch.rand(1, 3, TRACED_SIZE, TRACED_SIZE)
        graph = torch_pruning.DependencyGraph()
        graph.build_dependency(pruned, image, ignored_params=[pruned.head.bins])
    magnitude = torch_pruning.importance.GroupMagnitudeImportance(p=2, normalizer=None)
    wanted = {name: module.out_channels for name, module in targets.named_modules() if isinstance(module, nn.Conv2d)}
    for name, module in list(pruned.named_modules()):
        if not isinstance(module, nn.Conv2d) or module.out_channels == wanted[name]:
            continue  # those of a group that was pruned before are done
        everything = list(range(module.out_channels))
        scores = magnitude(graph.get_pruning_group(module, torch_pruning.prune_conv_out_channels, everything))
        weakest = scores.argsort()[: module.out_channels - wanted[name]].tolist()
        graph.get_pruning_group(module, torch_pruning.prune_conv_out_channels, weakest).prune()
    narrow.load_state_dict(whole_state(pruned.state_dict()))


def prune_file(source: Path, width: float, target: Path) -> None:
    """Read, prune, write.

    Raises:
        UserError: the checkpoint cannot be used, or the target is there.
    """
    check_new(target, overwrite=False)
    checkpoint = read_checkpoint(source)
    settings = checkpoint["hyper_parameters"]
    trained = DetectionModule(**{**settings, "teacher": None, "teacher_cache": None})
    trained.load_state_dict(checkpoint["state_dict"])
    spec = trained.model.spec
    if (spec.block, spec.downsample, spec.neck) != ("c2f", "conv", "pafpn"):
        raise UserError(f"{source} is a {settings['variant']} with other parts: only YOLOv8's own are pruned")
    if not 0 < width < spec.width:
        raise UserError(f"--width {width}: give less than the {spec.width} of {source}")
    changes = {"width": width, "teacher": None, "teacher_cache": None, "freeze": None}
    narrow = DetectionModule(**{**settings, **changes})
    prune_model(trained.model, narrow.model)
    kept = {name: checkpoint[name] for name in ("pytorch-lightning_version", "yolo_lite")}
    with replacing(target) as file:
        torch.save({"state_dict": narrow.state_dict(), "hyper_parameters": dict(narrow.hparams), **kept}, file)
    before, after = (sum(p.numel() for p in module.model.parameters()) for module in (trained, narrow))
    log.info("%s: %s parameters of %s", target, f"{after:,}", f"{before:,}")


def build_parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of train.py, a yolov8n to yolov8x")
    parser.add_argument("--width", type=float, required=True, help="factor on the number of channels; 0.25 is n's own")
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint to write")
    return parser


def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    config = build_parser().parse_args(args)
    return run_command(lambda: prune_file(config.checkpoint, config.width, config.out))


if __name__ == "__main__":
    sys.exit(main())
