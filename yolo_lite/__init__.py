"""yolo-lite: train, score and ship light-weight YOLOv8 detectors on PyTorch Lightning."""

__version__ = "0.1.0"
