"""Which images each process sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_lite.data.sampler import EvalSampler, TrainSampler
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
