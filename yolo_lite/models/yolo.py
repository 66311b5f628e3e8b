"""The detector: backbone, neck, head; the table of variants and the one function that builds them."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn

from yolo_lite.models.afpn import AFPN, NeckInit
from yolo_lite.models.backbone import Backbone, Block, Downsample
from yolo_lite.models.blocks import Act, set_activation
from yolo_lite.models.head import DetectHead, Head
from yolo_lite.models.pafpn import PAFPN
from yolo_lite.utils.errors import UserError

Neck = Literal["pafpn", "slim", "afpn"]
Levels = Literal["P2-P5", "P3-P5"]

CHOICES: dict[str, tuple[str, ...]] = {
    "block": get_args(Block),
    "downsample": get_args(Downsample),
    "neck": get_args(Neck),
    "levels": get_args(Levels),
    "neck_init": get_args(NeckInit),
    "head": get_args(Head),
    "act": get_args(Act),
}

STAGE_CHANNELS = (64, 128, 256, 512, 1024)
STAGE_DEPTHS = (3, 6, 6, 3)
NECK_DEPTH = 3
SLIM_CHANNELS = (128, 256, 384, 512)  # of the slim neck's P2..P5 at width 1
LEVEL_STRIDES: dict[str, tuple[int, ...]] = {"P2-P5": (4, 8, 16, 32), "P3-P5": (8, 16, 32)}


@dataclass(frozen=True)
class ModelSpec:
    """What a detector is made of.

    Attributes:
        depth: factor on the number of blocks in a stage.
        width: factor on the number of channels.
        max_channels: limit on the channels before `width` applies.
        block: block of the backbone's stages, one for all or one for each of the four.
        downsample: down-sampling of the backbone's stages, likewise (the stem stays a 3x3 convolution).
        neck: `pafpn` (YOLOv8's own), `slim` (the same with fewer channels and separable convolutions) or `afpn`.
        levels: pyramid levels that the neck takes and the head predicts on; None: P2-P5 for afpn, otherwise P3-P5.
        neck_divisor: AFPN only: the pyramid works on the backbone's channels divided by this (None: 8).
        neck_width: AFPN only: channels of its outputs; None: the channels of P4 (128 at scale n).
        neck_init: AFPN only: identity (None), published or default, see `AFPN`.
        reg_max: bins of a box side's distribution.
        head: dense or separable 3x3 convolutions.
        act: silu or, in its place everywhere, relu, which runtimes compute within the convolution before it.
    """

    depth: float
    width: float
    max_channels: int
    block: Block | tuple[Block, ...] = "c2f"
    downsample: Downsample | tuple[Downsample, ...] = "conv"
    neck: Neck = "pafpn"
    levels: Levels | None = None
    neck_divisor: int | None = None
    neck_width: int | None = None
    neck_init: NeckInit | None = None
    reg_max: int = 16
    head: Head = "dense"
    act: Act = "silu"

    def __post_init__(self) -> None:
        for key in ("depth", "width"):
            if not 0 < getattr(self, key) < math.inf:
                raise UserError(f"{key}={getattr(self, key)}: give a factor above 0")
        for key, choices in CHOICES.items():
            value = getattr(self, key)
            for one in value if isinstance(value, tuple) else (value,):
                if one is not None and one not in choices:
                    raise UserError(f"unknown {key} {one!r}: choose one of {', '.join(choices)}")
        for key in ("block", "downsample"):
            value = getattr(self, key)
            if isinstance(value, tuple) and len(value) != len(STAGE_DEPTHS):
                raise UserError(f"{key}={list(value)}: give one, or one for each of {len(STAGE_DEPTHS)} stages")
        if self.neck != "afpn":
            for key in ("neck_divisor", "neck_width", "neck_init"):
                if getattr(self, key) is not None:
                    raise UserError(
                        f"{key}={getattr(self, key)!r} belongs to the afpn neck; this model has neck={self.neck}"
                    )
        for key in ("neck_divisor", "neck_width"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UserError(f"{key}={value}: give a positive number")
        if self.reg_max < 2:
            raise UserError(f"reg_max={self.reg_max}: a distribution needs at least 2 bins")

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per cell of each predicted level, finest first."""
        return LEVEL_STRIDES[self.levels or ("P2-P5" if self.neck == "afpn" else "P3-P5")]

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The block of each stage."""
        return self.block if isinstance(self.block, tuple) else (self.block,) * len(STAGE_DEPTHS)

    @property
    def downsamples(self) -> tuple[Downsample, ...]:
        """The down-sampling of each stage."""
        return self.downsample if isinstance(self.downsample, tuple) else (self.downsample,) * len(STAGE_DEPTHS)

    def channels(self, wanted: Sequence[int] = STAGE_CHANNELS) -> list[int]:
        """Channels at this width of what has `wanted` at width 1: after the stem and after each stage."""
        return [math.ceil(min(c, self.max_channels) * self.width / 8) * 8 for c in wanted]

    def repeats(self, count: int) -> int:
        """Blocks in place of `count` at depth 1."""
        return max(1, round(count * self.depth))


SCALES = {
    "n": ModelSpec(0.33, 0.25, 1024),
    "s": ModelSpec(0.33, 0.50, 1024),
    "m": ModelSpec(0.67, 0.75, 768),
    "l": ModelSpec(1.00, 1.00, 512),
    "x": ModelSpec(1.00, 1.25, 512),
}

VARIANTS: dict[str, ModelSpec] = {}
for _scale, _spec in SCALES.items():
    VARIANTS[f"yolov8{_scale}"] = _spec
    VARIANTS[f"yolov8{_scale}-lite"] = dataclasses.replace(_spec, block="cspc", downsample="haar", neck="afpn")
    VARIANTS[f"yolov8{_scale}-lite-adown"] = dataclasses.replace(_spec, block="cspc", downsample="adown", neck="afpn")
for _scale in ("n", "s", "m"):
    VARIANTS[f"yolov8{_scale}-edge"] = dataclasses.replace(
        SCALES[_scale],
        depth=SCALES[_scale].depth / 2,
        max_channels=768,
        block=("none", "c2f", "mixer", "mixer"),
        downsample=("conv", "conv", "adown", "adown"),
        neck="slim",
        head="separable",
    )


class YOLO(nn.Module):
    """Anchor-free detector. Build one with `build_model`.

    Args:
        spec: what it is made of.
        num_classes: number of object classes.
    """

    def __init__(self, spec: ModelSpec, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise UserError(f"num_classes={num_classes}: a detector needs at least one class")
        depths = [spec.repeats(d) for d in STAGE_DEPTHS]
        self.backbone = Backbone(spec.channels(), depths, spec.blocks, spec.downsamples, len(spec.strides))
        channels = self.backbone.out_channels
        self.neck: PAFPN | AFPN
        if spec.neck == "pafpn":
            self.neck = PAFPN(channels, spec.repeats(NECK_DEPTH))
        elif spec.neck == "slim":
            out_channels = spec.channels(SLIM_CHANNELS)[-len(channels) :]
            self.neck = PAFPN(channels, spec.repeats(NECK_DEPTH), out_channels, slim=True)
        else:
            divisor = spec.neck_divisor or 8
            if min(channels) < divisor:
                raise UserError(f"neck_divisor={divisor} leaves no channels of a level with {min(channels)}")
            width = spec.neck_width or spec.channels()[3]
            self.neck = AFPN(channels, width, divisor, spec.neck_init or "identity")
        self.head = DetectHead(self.neck.out_channels, spec.strides, num_classes, channels[0], spec.reg_max, spec.head)
        set_activation(self, spec.act)
        self.spec = spec
        self.num_classes = num_classes
        self.strides = spec.strides

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) images in 0..1, sides divisible by 32 -> per level (B, 4 reg_max + C, H/stride, W/stride)."""
        return self.head(self.features(images))

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) as in `forward` -> the neck's maps, per level (B, c, H/stride, W/stride)."""
        return self.neck(self.backbone(images))


def build_model(variant: str = "yolov8n-lite", num_classes: int = 80, **parts: Any) -> YOLO:
    """A freshly initialised detector.

    Args:
        variant: a key of `VARIANTS`, such as `yolov8n`, `yolov8n-lite`, `yolov8s-lite-adown`.
        num_classes: number of object classes.
        **parts: fields of `ModelSpec` to change (`block`, `neck`, `levels`, ...); None keeps the variant's.

    Raises:
        UserError: an unknown variant, or parts that do not go together.
    """
    if variant not in VARIANTS:
        near = difflib.get_close_matches(variant, VARIANTS, n=2)
        meant = f"did you mean {' or '.join(near)}? There are" if near else "choose one of"
        raise UserError(f"unknown variant {variant!r}: {meant} {', '.join(VARIANTS)}")
    changes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in parts.items() if v is not None}
    unknown = changes.keys() - {field.name for field in dataclasses.fields(ModelSpec)}
    if unknown:
        raise UserError(f"unknown model part {', '.join(sorted(unknown))}")
    spec = VARIANTS[variant]
    if changes.get("neck") not in (None, "afpn"):  # the variant's AFPN settings do not carry over
        spec = dataclasses.replace(spec, neck=changes["neck"], neck_divisor=None, neck_width=None, neck_init=None)
    return YOLO(dataclasses.replace(spec, **changes), num_classes)
