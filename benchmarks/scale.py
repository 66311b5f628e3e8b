"""Time and memory of a data set of the size of Objects365: 2 million images, 30 million boxes, 365 classes.

python benchmarks/scale.py --folder DIR        (needs about 8 GB there, deleted at the end, and 10 minutes)
python benchmarks/scale.py --folder DIR --images 100000
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pickle
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from yolo_lite.data.coco import read_coco
from yolo_lite.data.index import DetectionIndex
from yolo_lite.utils.console import set_up_logging

NUM_CLASSES = 365
BLOCK = 10_000
MIB = 2**20


def write_annotations(path: Path, num_images: int, boxes_per_image: int) -> None:
    """A COCO file in which the annotations of an image are anywhere."""
    rng = np.random.default_rng(0)
    categories = [{"id": i + 1, "name": f"class{i}"} for i in range(NUM_CLASSES)]
    with open(path, "w") as file:
        file.write(f'{{"categories": {json.dumps(categories)}, "images": [')
        for i in range(num_images):
            comma = "," if i else ""
            name = f"images/v1/patch{i % 50}/objects365_v1_{i:08d}.jpg"
            file.write(f'{comma}{{"id": {i}, "file_name": "{name}", "height": 512, "width": 683, "license": 5}}')
        file.write('], "annotations": [')
        count = num_images * boxes_per_image
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            owners, labels = rng.integers(num_images, size=size), rng.integers(1, NUM_CLASSES + 1, size=size)
            boxes = rng.uniform(1, 256, size=(size, 4))
            rows = zip(range(start, start + size), owners.tolist(), labels.tolist(), boxes.tolist(), strict=True)
            lines = [
                f'{{"id": {i}, "iscrowd": 0, "isfake": 0, "area": {w * h:.6f}, "isreflected": 0, '
                f'"bbox": [{x:.10f}, {y:.10f}, {w:.10f}, {h:.10f}], "image_id": {owner}, "category_id": {label}}}'
                for i, owner, label, (x, y, w, h) in rows
            ]
            file.write(("," if start else "") + ",".join(lines))
        file.write("]}")


def memory() -> dict[str, float]:
    """Of this process, in MiB: resident, proportional, private; private and written to."""
    fields = {}
    with open("/proc/self/smaps_rollup") as file:
        for line in file.readlines()[1:]:
            name, value = line.split()[:2]
            fields[name.rstrip(":")] = int(value) / 1024
    private = fields["Private_Clean"] + fields["Private_Dirty"]
    values = {"rss": fields["Rss"], "pss": fields["Pss"], "private": private, "written": fields["Private_Dirty"]}
    return {name: round(value, 1) for name, value in values.items()}


def in_new_process(function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns in a process of its own that has not done anything before."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def parse(annotations: Path, folder: Path) -> dict[str, Any]:
    """Parse and save: seconds and the peak of the process."""
    set_up_logging()
    started = time.perf_counter()
    index = read_coco(annotations, annotations.parent)
    parsed = time.perf_counter()
    index.save(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "images": len(index),
        "boxes": len(index.labels),
        "parse_s": round(parsed - started, 1),
        "save_s": round(time.perf_counter() - parsed, 1),
        "peak_mib": round(peak, 1),
    }


def read_all(index: DetectionIndex | None) -> int:
    """What a training reads: the boxes and the name of every image, here of each hundredth, and all the pages."""
    if index is None:
        return 0
    pages = sum(int(a[:: 4096 // a.itemsize].sum()) for a in (index.labels, index.sizes.reshape(-1), index.offsets))
    pages += int(index.boxes_xywh[::256].sum())
    return pages + sum(len(index.training_boxes(i)[0]) + len(index.file_names[i]) for i in range(0, len(index), 100))


def work(index: DetectionIndex | None, ready: Any, results: Any) -> None:
    """A worker: reads, waits until the others have read too, and says what memory it has of its own."""
    read_all(index)
    ready.wait()
    results.put(memory())
    ready.wait()


def reopen(folder: Path) -> dict[str, Any]:
    """Open, read everything, and start workers, with and without the index."""
    before = memory()
    started = time.perf_counter()
    index = DetectionIndex.open(folder)
    opened = time.perf_counter() - started
    found = {
        "reopen_s": round(opened, 3),
        "opened": memory(),
        "pickled_bytes": len(pickle.dumps(index)),
    }
    read_all(index)
    found.update(before=before, parent=memory())
    for method in ("fork", "spawn"):
        for name, sent in (("without", None), ("with", index)):
            context: Any = multiprocessing.get_context(method)
            ready, results = context.Barrier(2), context.Queue()
            workers = [context.Process(target=work, args=(sent, ready, results)) for _ in range(2)]
            for worker in workers:
                worker.start()
            found[f"{method} {name}"] = [results.get() for _ in workers]
            for worker in workers:
                worker.join()
    return found


def main() -> None:
    """Print JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--images", type=int, default=2_000_000)
    parser.add_argument("--boxes_per_image", type=int, default=15)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="yolo-lite-scale-", dir=args.folder))
    try:
        annotations = folder / "train.json"
        write_annotations(annotations, args.images, args.boxes_per_image)
        print(json.dumps({"file_mib": round(annotations.stat().st_size / MIB)}), flush=True)
        print(json.dumps(in_new_process(parse, annotations, folder / "index")), flush=True)
        saved = sum(path.stat().st_size for path in (folder / "index").iterdir())
        print(json.dumps({"saved_mib": round(saved / MIB)}), flush=True)
        print(json.dumps(in_new_process(reopen, folder / "index"), indent=1), flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
