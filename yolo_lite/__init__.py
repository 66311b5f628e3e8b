"""yolo-lite: train, score and ship light-weight YOLOv8 detectors on PyTorch Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_model"]

if TYPE_CHECKING:
    from yolo_lite.deploy.detector import load_model


def __getattr__(name: str) -> Any:
    """`load_model` on demand: commands that do not predict need not wait for its imports."""
    if name == "load_model":
        from yolo_lite.deploy.detector import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
