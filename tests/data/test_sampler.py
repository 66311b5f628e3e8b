"""Which images each process sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_lite.data.sampler import EvalSampler, ShapeBatches, TrainSampler
from yolo_lite.data.types import SampleKey

sizes = st.integers(1, 60)
worlds = st.integers(1, 6)
seeds = st.integers(0, 2**32)


def indices(sampler: TrainSampler) -> list[int]:
    return [key.image for key in sampler]


@given(sizes, seeds, st.integers(0, 500))
def test_an_epoch_is_a_permutation_that_carries_its_number(num_images: int, seed: int, epoch: int) -> None:
    sampler = TrainSampler(num_images, seed)
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert len(keys) == len(sampler) == num_images
    assert all(isinstance(key, SampleKey) and key.epoch == epoch for key in keys)
    assert sorted(key.image for key in keys) == list(range(num_images))


@pytest.mark.parametrize("world_size", [1, 2])
def test_two_epochs_differ_on_every_rank(world_size: int) -> None:
    for rank in range(world_size):
        sampler = TrainSampler(50, 0, rank, world_size)
        orders = []
        for epoch in range(4):
            sampler.set_epoch(epoch)
            orders.append(tuple(indices(sampler)))
        assert len(set(orders)) == 4
        assert all(list(order) != sorted(order) for order in orders)


def test_an_epoch_repeats_itself_and_seeds_differ() -> None:
    assert indices(TrainSampler(50, 3)) == indices(TrainSampler(50, 3))
    assert indices(TrainSampler(50, 3)) != indices(TrainSampler(50, 4))
    resumed = TrainSampler(50, 3)
    resumed.set_epoch(7)
    resumed.set_epoch(0)
    assert indices(resumed) == indices(TrainSampler(50, 3))


@given(sizes, worlds, seeds, st.integers(1, 8))
def test_batches_of_all_ranks_are_slices_of_one_order(n: int, world_size: int, seed: int, batch_size: int) -> None:
    """As many batches everywhere, and the n-th ones together are what one process would have as its n-th."""
    samplers = [TrainSampler(n, seed, rank, world_size, batch_size) for rank in range(world_size)]
    parts = [indices(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(part) for part in parts]
    order, step = indices(TrainSampler(n, seed)), batch_size * world_size
    assert {-(-len(part) // batch_size) for part in parts} == {-(-n // step)}
    for b in range(samplers[0].num_batches):
        together = [i for part in parts for i in part[b * batch_size : (b + 1) * batch_size]]
        expected = order[b * step : (b + 1) * step]
        assert set(expected) <= set(together)
        repeated = len(together) - len(expected)
        assert repeated <= max(0, world_size - len(expected))  # only for ranks that would have nothing


@given(sizes, st.integers(1, 5), st.integers(0, 4))
def test_an_epoch_can_be_gone_on_with(n: int, batch_size: int, done: int) -> None:
    options: dict[str, Any] = {"batch_size": batch_size, "sizes": (32, 64, 96), "recent_batches": 2, "num_workers": 2}
    whole = list(TrainSampler(n, 1, **options))
    sampler = TrainSampler(n, 1, **options)
    sampler.skip(done)
    assert list(sampler) == whole[done * batch_size :]
    assert list(sampler) == whole  # the next epoch is whole again


def test_a_batch_has_one_size_the_same_on_every_rank() -> None:
    ranks = [list(TrainSampler(64, 3, rank, 2, 4, sizes=(32, 64, 96))) for rank in range(2)]
    for one, other in zip(*ranks, strict=True):
        assert one.size == other.size
    per_batch = [{key.size for key in ranks[0][k : k + 4]} for k in range(0, 32, 4)]
    assert all(len(sizes) == 1 for sizes in per_batch)
    assert len(set.union(*per_batch)) > 1  # type: ignore[arg-type]


def test_partners_are_images_that_the_same_worker_has_had() -> None:
    """Two workers take batches in turn; each holds its own last three."""
    keys = list(TrainSampler(40, 0, batch_size=4, recent_batches=2, num_workers=2))
    batches = [keys[k : k + 4] for k in range(0, 40, 4)]
    for b, batch in enumerate(batches):
        seen = {key.image for other in batches[: b + 1][b % 2 :: 2][-3:] for key in other}
        for key in batch:
            assert set(key.partners) == seen
            assert key.image in key.partners
    assert all(key.partners == () for key in TrainSampler(40, 0, batch_size=4))


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_mosaic_is_never_of_the_same_image_alone(batch_size: int) -> None:
    """The first small batches have too few partners yet: any image is one."""
    keys = list(TrainSampler(40, 0, batch_size=batch_size, recent_batches=7, num_workers=2))
    assert keys[0].partners == ()
    assert all(key.partners == () or len(set(key.partners)) >= 4 for key in keys)
    assert all(key.partners for key in keys[20:])


def test_batches_of_one_shape() -> None:
    shapes = np.array([[32, 64], [64, 32], [32, 64], [32, 64], [64, 32], [32, 64], [32, 64]])
    batches = list(ShapeBatches(EvalSampler(7), shapes, 3))
    assert sorted(i for batch in batches for i in batch) == list(range(7))
    assert all(len(batch) <= 3 and len({tuple(shapes[i]) for i in batch}) == 1 for batch in batches)
    assert len(batches) == len(ShapeBatches(EvalSampler(7), shapes, 3)) == 3


@given(sizes, worlds, seeds)
def test_ranks_share_an_epoch_evenly(num_images: int, world_size: int, seed: int) -> None:
    parts = [indices(TrainSampler(num_images, seed, rank, world_size)) for rank in range(world_size)]
    assert {len(part) for part in parts} == {-(-num_images // world_size)}
    together = [i for part in parts for i in part]
    assert set(together) == set(range(num_images))
    extra = len(together) - num_images
    assert 0 <= extra < world_size
    if extra == 0:
        assert len(set(together)) == len(together)


@given(st.integers(0, 60), worlds)
def test_evaluation_sees_every_image_once(num_images: int, world_size: int) -> None:
    samplers = [EvalSampler(num_images, rank, world_size) for rank in range(world_size)]
    parts = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(part) for part in parts]
    filled = parts[:num_images]  # ranks beyond have nothing of their own and repeat the first image
    assert sorted(i for part in filled for i in part) == list(range(num_images))
    assert all(part == ([0] if num_images else []) for part in parts[num_images:])
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_evaluation_with_fewer_images_than_ranks() -> None:
    assert [list(EvalSampler(2, rank, 4)) for rank in range(4)] == [[0], [1], [0], [0]]
