"""The order of an epoch: a permutation, pure in (seed, epoch), in groups of like shape."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldkit.data.augment import ViewPolicy
from ldkit.data.coco import Record
from ldkit.data.sampler import batches_per_epoch, epoch_batches
from ldkit.structures import ViewKey

Records = dict[int, Record]
sides = st.sampled_from([(40, 60), (60, 40), (50, 50), (30, 31)])
records_of_ids = st.dictionaries(st.integers(0, 999), sides, min_size=1, max_size=40).map(
    lambda shapes: {image_id: record(image_id, hw) for image_id, hw in shapes.items()}
)
seeds, epochs, sizes = st.integers(0, 99), st.integers(0, 30), st.integers(1, 9)
POLICY = ViewPolicy(800, 1333, flip=0.5, count=None, pad_multiple_px=32, seed=0)


def record(image_id: int, hw: tuple[int, int]) -> Record:
    boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    return Record(image_id, Path("none.png"), hw, boxes, labels)


def order(records: Records, size: int, seed: int, epoch: int) -> list[list[ViewKey]]:
    return epoch_batches(records, POLICY.view_of_epoch, batch_size=size, seed=seed, epoch=epoch)


@pytest.mark.law
@settings(deadline=None, max_examples=60)
@given(records=records_of_ids, size=sizes, seed=seeds, epoch=epochs)
def test_an_epoch_shows_every_image_once_in_groups_that_never_mix(
    records: Records, size: int, seed: int, epoch: int
) -> None:
    batches = order(records, size, seed, epoch)
    shown = [key for batch in batches for key in batch]
    assert sorted(key.image_id for key in shown) == sorted(records)
    assert all(key.view == POLICY.view_of_epoch(epoch, key.image_id) for key in shown)
    for batch in batches:
        hws = [records[key.image_id].hw for key in batch]
        assert len({width > height for height, width in hws}) == 1
    assert len(batches) == batches_per_epoch(records, size)
    short = [batch for batch in batches if len(batch) < size]
    assert len(short) <= 2
    assert all(0 < len(batch) <= size for batch in batches)


@pytest.mark.law
@settings(deadline=None, max_examples=30)
@given(records=records_of_ids, size=sizes, seed=seeds, epoch=epochs)
def test_the_order_is_pure_and_knows_not_how_records_are_arranged(
    records: Records, size: int, seed: int, epoch: int
) -> None:
    batches = order(records, size, seed, epoch)
    turned = dict(reversed(records.items()))
    assert order(turned, size, seed, epoch) == batches


@pytest.mark.law
def test_epochs_and_seeds_differ() -> None:
    records = {n: record(n, (40, 60)) for n in range(60)}
    orders = [order(records, 6, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({str(batches) for batches in orders}) == 4


@pytest.mark.law
def test_a_stopped_epoch_goes_on_where_it_stopped() -> None:
    records = {n: record(n, (40, 60 if n % 3 else 30)) for n in range(50)}
    whole = order(records, 4, 3, 7)
    assert whole[:5] + order(records, 4, 3, 7)[5:] == whole


@pytest.mark.law
def test_wide_and_tall_batches_are_mixed_over_the_epoch() -> None:
    records = {n: record(n, (40, 60) if n < 200 else (60, 40)) for n in range(400)}
    wide = [batch[0].image_id < 200 for batch in order(records, 4, 0, 0)]
    assert 15 < sum(wide[:50]) < 35


@pytest.mark.contract
def test_the_order_of_an_epoch_is_the_same_in_every_version() -> None:
    records = {n: record(n, (40, 60 if n % 2 else 30)) for n in range(7)}
    shown = [[tuple(key) for key in batch] for batch in order(records, 2, 0, 1)]
    assert shown == [[(6, 0), (4, 1)], [(2, 0), (0, 0)], [(3, 0), (5, 1)], [(1, 0)]]
