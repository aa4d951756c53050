"""Samples and batches, in this process and in workers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ldkit.data.augment import ViewPolicy, render, render_boxes
from ldkit.data.coco import CocoIndex
from ldkit.data.dataset import (
    Sample,
    ViewDataset,
    collate,
    load_batches,
    read_record,
    start_worker,
)
from ldkit.errors import DataError
from ldkit.ops.pixels import normalise
from ldkit.structures import Batch, ViewKey
from tests.data.coco_files import annotation, encoded, image, write_coco
from tests.data.test_augment import ARRAYS, CASES, FACTS, GREY_LEVEL, golden_view

CPU = torch.device("cpu")
POLICY = ViewPolicy((32, 64), 96, flip=0.5, count=None, pad_multiple_px=32, seed=1)
KEYS = [[ViewKey(1, 0), ViewKey(2, 3)], [ViewKey(3, 1)], [ViewKey(2, 0), ViewKey(1, 2)]]

# Python 3.12 warns of every fork from a process with threads, and torch has some.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture
def dataset(tmp_path: Path) -> ViewDataset:
    """Three images, the last of them empty."""
    images = [image(1, (40, 60)), image(2, (90, 50)), image(3, (48, 48))]
    boxes = [annotation(n, 1 + n // 3, [n, 2 * n, 9, 12.5], category_id=3) for n in range(4)]
    index = CocoIndex.read(*write_coco(tmp_path, images, boxes))
    return ViewDataset(index.records, POLICY.draw)


def assert_same(one: Batch, other: Batch) -> None:
    assert one.keys == other.keys
    assert one.views == other.views
    torch.testing.assert_close(one.pixels, other.pixels, rtol=0, atol=0)
    torch.testing.assert_close(one.ground_truth, other.ground_truth, rtol=0, atol=0)


@pytest.mark.contract
def test_a_sample_is_the_rendered_view_of_its_key(dataset: ViewDataset) -> None:
    key = ViewKey(1, 2)
    record, sample = dataset.records[1], dataset[key]
    assert sample.view == POLICY.draw(key, record.hw)
    np.testing.assert_array_equal(sample.pixels, render(read_record(record), sample.view))
    np.testing.assert_array_equal(sample.boxes, render_boxes(record.boxes, sample.view))
    assert sample.labels.tolist() == [0, 0, 0]


@pytest.mark.law
def test_a_batch_holds_each_sample_and_nothing_else(dataset: ViewDataset) -> None:
    samples = [dataset[key] for key in (ViewKey(1, 0), ViewKey(2, 0), ViewKey(3, 0))]
    batch = collate(samples)
    canvases = np.array([sample.view.padded_hw for sample in samples])
    assert batch.canvas_hw == tuple(canvases.max(axis=0))
    assert batch.pixels.dtype == torch.uint8
    boxes, labels = batch.ground_truth
    for row, sample in enumerate(samples):
        height, width = sample.view.padded_hw
        np.testing.assert_array_equal(batch.pixels[row, :, :height, :width], sample.pixels)
        rest = batch.pixels[row].sum(dtype=torch.int64) - int(sample.pixels.sum(dtype=np.int64))
        assert rest == 0
        count = len(sample.boxes)
        np.testing.assert_array_equal(boxes[row, :count], sample.boxes)
        assert labels[row, :count].tolist() == sample.labels.tolist()
        assert (labels[row, count:] == -1).all()
        assert not boxes[row, count:].any()


@pytest.mark.contract
def test_a_batch_without_boxes_has_one_row_of_padding(dataset: ViewDataset) -> None:
    boxes, labels = collate([dataset[ViewKey(3, 0)]]).ground_truth
    assert boxes.tolist() == [[[0, 0, 0, 0]]]
    assert labels.tolist() == [[-1]]


@pytest.mark.golden
def test_the_published_pair_is_padded_alike() -> None:
    pair = FACTS["cases"]["pair"]
    samples = []
    for name in pair["of"]:
        picture, view = golden_view(CASES[name])
        none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        samples.append(Sample(ViewKey(0, 0), view, render(picture, view), *none))
    batch = collate(samples)
    ours = normalise(batch.pixels, torch.tensor([view.resized_hw for view in batch.views])).numpy()
    step = pair["batch_stride"]
    theirs = ARRAYS["pair.batch"]
    np.testing.assert_allclose(ours[:, :, ::step, ::step], theirs, rtol=0, atol=GREY_LEVEL)


@pytest.mark.contract
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_torch_loads_the_data_set_in_workers_however_they_start(
    dataset: ViewDataset, start: str
) -> None:
    loader = DataLoader(
        dataset,
        batch_sampler=KEYS,
        num_workers=1,
        collate_fn=collate,
        worker_init_fn=start_worker,
        multiprocessing_context=start,
    )
    for batch, keys in zip(loader, KEYS, strict=True):
        assert_same(batch, collate([dataset[key] for key in keys]))


@pytest.mark.law
@pytest.mark.parametrize("workers", [0, 2, 999])
def test_workers_change_nothing(dataset: ViewDataset, workers: int) -> None:
    state = torch.get_rng_state()
    loaded = list(load_batches(dataset, iter(KEYS), workers, CPU))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(loaded) == len(KEYS)
    for batch, keys in zip(loaded, KEYS, strict=True):
        assert_same(batch, collate([dataset[key] for key in keys]))


@pytest.mark.contract
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_told_plainly_from_any_process(
    dataset: ViewDataset, workers: int
) -> None:
    path = dataset.records[2].path
    path.write_bytes(path.read_bytes()[:200])
    batches = load_batches(
        dataset, [[ViewKey(1, 0)], [ViewKey(2, 0)], [ViewKey(3, 0)]], workers, CPU
    )
    assert next(batches).keys == (ViewKey(1, 0),)
    with pytest.raises(DataError) as caught:
        next(batches)
    assert caught.value.where == str(path)
    assert caught.value.message == (
        "the image cannot be read: the file is damaged, or of an unknown format."
    )
    assert caught.value.hint
    assert "Traceback" not in str(caught.value)


@pytest.mark.contract
def test_an_image_of_another_size_than_stated_is_refused(dataset: ViewDataset) -> None:
    def complaint(hw: tuple[int, int]) -> DataError:
        record = dataset.records[1]
        record.path.write_bytes(encoded(np.zeros((*hw, 3), np.uint8), ".png"))
        with pytest.raises(DataError) as caught:
            dataset[ViewKey(1, 0)]
        assert caught.value.where == str(record.path)
        return caught.value

    other = complaint((40, 61))
    assert "is 61 x 40 (width x height)" in other.message
    assert "states 60 x 40 for image 1" in other.message
    assert "swapped" not in other.hint
    assert "The sides are swapped" in complaint((60, 40)).hint
