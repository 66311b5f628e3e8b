"""Start from another model's weights: every tensor that fits is taken, the head's rows by the names of the classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from yolo_lite.deploy.loading import load_weights
from yolo_lite.models.yolo import YOLO
from yolo_lite.utils.errors import UserError

# The head's last layers, one row per class.
CLASS_LAYER = re.compile(r"head\.classes\.\d+\.2\.(weight|bias)$")
# Lists of the head and the necks with one entry per pyramid level, finest first.
LEVEL_LIST = re.compile(r"(head\.(?:box|classes)|neck\.(?:reduce|pre|expand|top_down|down|bottom_up))\.(\d+)\.")
# What else is numbered by levels: another number of them makes it another thing.
LEVEL_STAGES = "neck.stages."
# Between any two scales a few layers of the head have the same shape, 1 to 2 % of the weights; that is no start. From a
# baseline to its light variant it is 41 %.
MIN_TRANSFER = 0.1


@dataclass(frozen=True)
class InitialWeights:
    """A model to start from.

    Attributes:
        path: its file.
        variant: what it is.
        class_names: its classes.
        strides: of its levels, finest first.
        state: its weights.
    """

    path: Path
    variant: str
    class_names: Sequence[str]
    strides: Sequence[int]
    state: dict[str, Tensor]

    @staticmethod
    def read(path: Path) -> InitialWeights:
        """From a checkpoint or a .safetensors file.

        Raises:
            UserError: it cannot be read.
        """
        model, info = load_weights(path)
        return InitialWeights(path, info.variant, info.class_names, model.strides, model.state_dict())


@dataclass(frozen=True)
class Transfer:
    """What became of a model's tensors.

    Attributes:
        moved: how many were copied.
        new: names of those that were not, or not entirely.
        new_classes: the classes that the weights do not know.
    """

    moved: int
    new: list[str]
    new_classes: list[str]

    def __str__(self) -> str:
        text = f"moved {self.moved} of {self.moved + len(self.new)} tensors"
        if self.new:
            groups = Counter(".".join(name.split(".")[:2]) for name in self.new)
            text += f", new: {', '.join(f'{name} ({count})' for name, count in groups.items())}"
        if self.new_classes:
            shown = ", ".join(map(str, self.new_classes[:5])) + (" ..." if len(self.new_classes) > 5 else "")
            text += f"; classes that are new: {shown}"
        return text


def rename_levels(state: dict[str, Tensor], source: Sequence[int], target: Sequence[int]) -> dict[str, Tensor]:
    """The tensors under the names that they have where the pyramid begins at another stride.

    Args:
        state: weights.
        source: strides of their levels, finest first.
        target: strides of the model that takes them. What belongs to a level that it does not have is left out.
    """
    if list(source) == list(target):
        return state
    renamed = {}
    for name, value in state.items():
        if match := LEVEL_LIST.match(name):
            stride = source[int(match[2])]
            if stride in target:
                renamed[f"{match[1]}.{list(target).index(stride)}.{name[match.end() :]}"] = value
        elif not name.startswith(LEVEL_STAGES):
            renamed[name] = value
    return renamed


def transfer_weights(model: YOLO, classes: Sequence[str], source: InitialWeights) -> Transfer:
    """Copy every tensor of `source` that has the name and the shape of one of `model`'s, level by level; of the last
    layers, the rows of the classes that both know.

    Args:
        model: takes the weights.
        classes: its classes.
        source: gives them.

    Raises:
        UserError: next to nothing fits.
    """
    own = model.state_dict()
    state = rename_levels(source.state, source.strides, model.strides)
    moved = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    common = [name for name in classes if name in source.class_names]
    if list(classes) != list(source.class_names):
        rows, source_rows = [classes.index(c) for c in common], [list(source.class_names).index(c) for c in common]
        for name in own:
            if CLASS_LAYER.match(name) and name in state and state[name].shape[1:] == own[name].shape[1:]:
                moved[name] = own[name].clone()
                moved[name][rows] = state[name][source_rows].to(own[name])
    for name in [name for name in moved if CLASS_LAYER.match(name)]:
        if f"{name.rpartition('.')[0]}.weight" not in moved:  # a bias means nothing to other weights
            del moved[name]
    weights = {name: value.numel() for name, value in own.items() if value.ndim == 4}
    share = sum(count for name, count in weights.items() if name in moved) / sum(weights.values())
    if share < MIN_TRANSFER:
        raise UserError(
            f"only {share:.1%} of this model's weights are in {source.path}, which is a {source.variant}: choose that "
            "--model.variant, or one made of its parts"
        )
    model.load_state_dict(moved, strict=False)
    partial = {name for name in moved if CLASS_LAYER.match(name) and len(common) < len(classes)}
    new = [name for name in own if name not in moved or name in partial]
    return Transfer(len(own) - len(new), new, [name for name in classes if name not in common])
