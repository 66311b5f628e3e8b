"""What stale BatchNorm statistics cost: a checkpoint scored with its own, and with those of its present weights.

    python -m benchmarks.norm_statistics last.ckpt DIR

The statistics are taken anew, as plain means over one epoch of augmented training batches, at the same weights; they
are no recipe, for they would cost a pass over the data whenever a model is scored. Prints one JSON line for each.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import nn

from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.training.module import DetectionModule
from yolo_lite.training.trainer import silent_trainer
from yolo_lite.utils.checkpoints import read_checkpoint
from yolo_lite.utils.console import run_command

SHOWN = ("val/map_50_95", "val/map_50", "val/loss_box", "val/loss_class", "val/loss_dfl")


@torch.no_grad()
def take_statistics(module: DetectionModule, data: DetectionDataModule) -> None:
    """Running statistics become the mean over an epoch of training batches."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean
    module.train()
    for batch in data.train_dataloader():
        module(batch.images)
    module.eval()


def score(module: DetectionModule, data: DetectionDataModule) -> dict[str, float]:
    """The validation of a training."""
    numbers = silent_trainer(accelerator="cpu").validate(module, datamodule=data, verbose=False)[0]
    return {name: round(numbers[name], 4) for name in SHOWN}


def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of train.py; its averaged weights are taken")
    parser.add_argument("data_root", type=Path)
    config = parser.parse_args(args)

    def command() -> None:
        checkpoint = read_checkpoint(config.checkpoint)
        module = DetectionModule(**{**checkpoint["hyper_parameters"], "teacher": None, "teacher_cache": None})
        module.load_state_dict(checkpoint["state_dict"])
        data = DetectionDataModule(config.data_root, module.image_size, num_workers=0)
        print(json.dumps({"statistics": "its own", **score(module, data)}))
        take_statistics(module, data)
        print(json.dumps({"statistics": "taken anew", **score(module, data)}))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
