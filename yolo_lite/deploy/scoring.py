"""COCO's numbers of a model in any runtime, by the protocol of eval.py."""

from __future__ import annotations

from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.deploy.runtimes import Runtime
from yolo_lite.evaluation.coco_scores import CocoScores
from yolo_lite.ops.postprocess import EVAL_IOU, EVAL_SCORE, MAX_DETECTIONS, to_original
from yolo_lite.training.metrics import CocoMetric
from yolo_lite.utils.progress import LongJob


def score_runtime(runtime: Runtime, data: DetectionDataModule) -> CocoScores:
    """Score a model on the split that `data.eval_split` names.

    Args:
        runtime: takes square images of `data.image_size`.
        data: made with that size.
    """
    metric = CocoMetric()
    loader = data.val_dataloader()
    with LongJob("scoring", len(loader)) as job:
        for number, batch in enumerate(loader, start=1):
            found = runtime.detect(batch.images, EVAL_SCORE, EVAL_IOU, MAX_DETECTIONS, multi_label=True)
            sizes = batch.original_sizes.tolist()
            located = [to_original(d, box, size) for d, box, size in zip(found, batch.letterboxes, sizes, strict=True)]
            metric.update(batch.image_ids, located)
            job.update(number)
    return metric.compute(data.eval_index)
