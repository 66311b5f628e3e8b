"""Detectors: building blocks, backbone, necks, head."""

from yolo_lite.models.fuse import fuse_model
from yolo_lite.models.yolo import VARIANTS, YOLO, ModelSpec, build_model

__all__ = ["VARIANTS", "YOLO", "ModelSpec", "build_model", "fuse_model"]
