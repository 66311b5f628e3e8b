"""Training samples through a loader: the mosaic's end, augmentation that never repeats, and the same bits again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from yolo_lite.data.augment import AugmentConfig
from yolo_lite.data.catalog import open_split
from yolo_lite.data.collate import collate
from yolo_lite.data.dataset import Cache, ImageSource, TrainDataset
from yolo_lite.data.geometry import FILL
from yolo_lite.data.sampler import TrainSampler
from yolo_lite.data.types import Batch, SampleKey

NO_COLOUR = {"hsv_hue": 0.0, "hsv_saturation": 0.0, "hsv_value": 0.0}
GREYS = (0, 30, 60, 160, 190, 220, 245, 90)
SIZE = 64


def make_dataset(
    root: Path, augment: AugmentConfig, mosaic_epochs: int = 0, seed: int = 0, cache: Cache = "none"
) -> TrainDataset:
    return TrainDataset(ImageSource(open_split(root, "train"), SIZE, cache), augment, mosaic_epochs, seed)


def make_loader(dataset: TrainDataset, sampler: TrainSampler, workers: int, persistent: bool = False) -> DataLoader:
    return DataLoader(
        dataset, 4, sampler=sampler, num_workers=workers, collate_fn=collate, persistent_workers=persistent
    )


def run_epochs(loader: DataLoader, sampler: TrainSampler, epochs: int) -> list[list[Batch]]:
    result = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        result.append(list(loader))
    return result


def digests(batches: list[Batch]) -> list[str]:
    """One for each image with its boxes."""
    return [
        hashlib.sha256(
            image.numpy().tobytes() + batch.targets.boxes_xyxy[i][batch.targets.mask[i]].numpy().tobytes()
        ).hexdigest()
        for batch in batches
        for i, image in enumerate(batch.images)
    ]


def greys_in(image: np.ndarray) -> set[int]:
    """Which of the images' greys are there: (3, H, W)."""
    values, counts = np.unique(image, return_counts=True)
    seen = set(values[counts > 0.002 * image.size].tolist())
    return seen & (set(GREYS) - {FILL})


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_mosaic_ends_where_it_should(tiny_coco: Callable[..., Path], workers: int, persistent: bool) -> None:
    root = tiny_coco(num_train=8, background=GREYS, empty_images=range(8))
    augment = AugmentConfig(scale=0.1, **NO_COLOUR)
    dataset = make_dataset(root, augment, mosaic_epochs=2)
    sampler = TrainSampler(8)
    epochs = run_epochs(make_loader(dataset, sampler, workers, persistent), sampler, 4)
    sources = [[len(greys_in(image.numpy())) for batch in batches for image in batch.images] for batches in epochs]
    assert max(sources[0]) > 1
    assert max(sources[1]) > 1
    assert sources[2] == [1] * 8
    assert sources[3] == [1] * 8


def test_mosaic_probability_zero_and_mixup_off_after_the_end(tiny_coco: Callable[..., Path]) -> None:
    root = tiny_coco(num_train=8, background=GREYS, empty_images=range(8))
    never = make_dataset(root, AugmentConfig(mosaic=0.0, scale=0.1, **NO_COLOUR), mosaic_epochs=5)
    assert all(len(greys_in(never[SampleKey(0, i)].image)) == 1 for i in range(8))
    mixed = make_dataset(root, AugmentConfig(mixup=1.0, scale=0.1, **NO_COLOUR), mosaic_epochs=1)
    assert all(len(greys_in(mixed[SampleKey(1, i)].image)) == 1 for i in range(8))


def test_mosaic_epochs_of_a_run() -> None:
    augment = AugmentConfig(close_mosaic=10)
    assert augment.mosaic_epochs(100) == 90
    assert augment.mosaic_epochs(12) == 8  # at most a third of a short run goes without
    assert augment.mosaic_epochs(1) == 1
    assert AugmentConfig(close_mosaic=0).mosaic_epochs(30) == 30


@pytest.mark.parametrize("mosaic_epochs", [0, 10])
@pytest.mark.parametrize(("workers", "persistent"), [(2, False), (2, True)])
def test_no_augmentation_is_ever_repeated(
    tiny_coco: Callable[..., Path], mosaic_epochs: int, workers: int, persistent: bool
) -> None:
    """All images are the same, so equal samples mean equal draws: on two ranks, in two workers each, in two epochs."""
    root = tiny_coco(num_train=16, num_classes=1, empty_images=range(1, 16))
    first = next((root / "images" / "train").glob("*_000.png"))
    for path in (root / "images" / "train").iterdir():
        path.write_bytes(first.read_bytes())
    dataset = make_dataset(root, AugmentConfig(), mosaic_epochs)
    found: list[str] = []
    for rank in range(2):
        sampler = TrainSampler(16, 0, rank, 2)
        for batches in run_epochs(make_loader(dataset, sampler, workers, persistent), sampler, 2):
            found += digests(batches)
    assert len(found) == 32
    assert len(set(found)) == 32


@pytest.mark.parametrize("probability", ["flip", "hsv", "extra"])
def test_draws_of_every_kind_differ(tiny_coco: Callable[..., Path], probability: str) -> None:
    """With the geometry still: our own draws, and those of the generator inside albumentations' `Compose`."""
    root = tiny_coco(num_train=16, num_classes=1, empty_images=range(1, 16), background=(90,))
    first = next((root / "images" / "train").glob("*_000.png"))
    for path in (root / "images" / "train").iterdir():
        path.write_bytes(first.read_bytes())
    still = {"mosaic": 0.0, "scale": 0.0, "translate": 0.0}
    options: dict[str, Any] = {"flip": 0.5, **NO_COLOUR} if probability == "flip" else {"flip": 0.0}
    if probability == "extra":
        options |= {**NO_COLOUR, "extra": [{"RandomBrightnessContrast": {"p": 1.0}}]}
    dataset = make_dataset(root, AugmentConfig(**still, **options))
    sampler = TrainSampler(16)
    loader = make_loader(dataset, sampler, workers=2, persistent=False)
    epochs = [[x.images.permute(0, 2, 3, 1).numpy() for x in batches] for batches in run_epochs(loader, sampler, 2)]
    images = [[image.tobytes() for batch in batches for image in batch] for batches in epochs]
    if probability == "flip":
        assert len(set(images[0])) == len(set(images[1])) == 2
        assert images[0] != images[1]
    else:
        assert len({*images[0], *images[1]}) > 24  # brightness has few levels: a chance equality is possible


def test_the_same_key_gives_the_same_bits(tiny_coco: Callable[..., Path]) -> None:
    root = tiny_coco(num_train=8)
    expected = None
    for workers, persistent, cache in ((0, False, "none"), (1, False, "none"), (2, True, "none"), (2, False, "ram")):
        dataset = make_dataset(root, AugmentConfig(mixup=0.3), mosaic_epochs=1, cache=cache)  # type: ignore[arg-type]
        sampler = TrainSampler(8)
        found = [digests(x) for x in run_epochs(make_loader(dataset, sampler, workers, persistent), sampler, 2)]
        expected = expected or found
        assert found == expected, (workers, persistent, cache)
    assert expected is not None
    assert not set(expected[0]) & set(expected[1])


def test_order_of_access_and_other_generators_do_not_matter(tiny_coco: Callable[..., Path]) -> None:
    root = tiny_coco(num_train=6)
    dataset = make_dataset(root, AugmentConfig(), mosaic_epochs=1)
    first = [dataset[SampleKey(0, i)] for i in range(6)]
    np.random.seed(3)
    again = [dataset[SampleKey(0, i)] for i in reversed(range(6))][::-1]
    other = make_dataset(root, AugmentConfig(), mosaic_epochs=1, seed=1)
    for i, (a, b) in enumerate(zip(first, again, strict=True)):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.boxes_xyxy, b.boxes_xyxy)
        assert not np.array_equal(a.image, other[SampleKey(0, i)].image)


def test_samples_have_the_promised_types(tiny_coco: Callable[..., Path]) -> None:
    root = tiny_coco(num_train=4, empty_images=(1,))
    for mosaic_epochs in (0, 1):
        dataset = make_dataset(root, AugmentConfig(), mosaic_epochs)
        for i in range(4):
            sample = dataset[SampleKey(0, i)]
            assert sample.image.shape == (SIZE, SIZE, 3)
            assert sample.image.dtype == np.uint8
            assert sample.boxes_xyxy.dtype == np.float32
            assert sample.boxes_xyxy.shape == (len(sample.labels), 4)
            assert sample.labels.dtype == np.int64
            assert sample.image_id == 100 + 7 * i
            assert sample.original_size == (96, 128)


@pytest.mark.parametrize("mosaic_epochs", [0, 1])
def test_data_set_without_any_object(tiny_coco: Callable[..., Path], mosaic_epochs: int) -> None:
    root = tiny_coco(num_train=4, empty_images=range(4))
    dataset = make_dataset(root, AugmentConfig(mixup=0.5), mosaic_epochs)
    (batch,) = list(make_loader(dataset, TrainSampler(4), 0))
    assert batch.images.shape == (4, 3, SIZE, SIZE)
    assert batch.targets.mask.shape == (4, 0)
    assert batch.targets.boxes_xyxy.shape == (4, 0, 4)


def test_real_images_with_crowds_and_empty_ones(data_root: Callable[[str], Path]) -> None:
    index = open_split(data_root("coco128"), "train")
    dataset = TrainDataset(ImageSource(index, 96, "none"), AugmentConfig(mixup=0.2), 1, 0)
    for i in range(0, len(index), 8):
        sample = dataset[SampleKey(0, i)]
        boxes = sample.boxes_xyxy
        assert (boxes >= 0).all()
        assert (boxes <= 96).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert ((sample.labels >= 0) & (sample.labels < 80)).all()
