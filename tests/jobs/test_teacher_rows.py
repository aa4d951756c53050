"""What a teacher says of an image depends on that image's view, and on nothing beside it."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldkit.cache.reader import CacheReader
from ldkit.data.dataset import ViewDataset, collate
from ldkit.jobs import build_cache
from ldkit.jobs.build_cache import load_teacher
from ldkit.jobs.teacher_rows import LiveTeacher, part_of_batch, rows_of_group
from ldkit.jobs.train import Material
from ldkit.models.gfl import Detector
from ldkit.ops.anchors import relocate
from ldkit.structures import Batch, TeacherRows, View, ViewKey
from tests.jobs.conftest import World
from tests.jobs.tiny import finish

KEYS = [ViewKey(image_id, view) for image_id in range(1, 11) for view in (0, 1)]
CLOSE = 1e-5
Alone = dict[ViewKey, TeacherRows]


@pytest.fixture(scope="module")
def dataset(world: World) -> ViewDataset:
    material = Material.of(world.student())
    return ViewDataset(material.records, material.draw)


@pytest.fixture(scope="module")
def teacher(world: World) -> Detector:
    return load_teacher(world.teacher, torch.device("cpu"), channels_last=True)


@pytest.fixture(scope="module")
def alone(dataset: ViewDataset, teacher: Detector) -> Alone:
    """What the teacher says of each view that it sees by itself."""
    return {key: rows_of_group(teacher, collate([dataset[key]]), 9) for key in KEYS}


def assert_says_the_same(
    answer: TeacherRows, batch: Batch, alone: Alone, strides: tuple[int, ...]
) -> None:
    """Check rows, boxes and logits of a batch against each view's own."""
    image = answer.rows.image
    assert image.equal(image.sort().values)
    for position, key in enumerate(batch.keys):
        here, own = image == position, alone[key]
        view: View = batch.views[position]
        location = relocate(own.rows.location, view.padded_hw, batch.canvas_hw, strides)
        assert answer.rows.location[here].equal(location)
        assert answer.rows.gt_index[here].equal(own.rows.gt_index)
        assert (answer.bbox_logits[here] - own.bbox_logits).abs().max() < CLOSE
        assert answer.cls_logits is not None
        assert own.cls_logits is not None
        assert (answer.cls_logits[here] - own.cls_logits).abs().max() < CLOSE


@pytest.mark.law
@settings(deadline=None, max_examples=25)
@given(
    keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=7, unique=True),
    limit=st.integers(1, 5),
)
def test_teacher_rows_do_not_depend_on_their_batch(
    dataset: ViewDataset, teacher: Detector, alone: Alone, keys: list[ViewKey], limit: int
) -> None:
    batch = collate([dataset[key] for key in keys])
    answer = LiveTeacher(teacher, topk=9, batch_size=limit).lookup(batch)
    assert_says_the_same(answer, batch, alone, teacher.grid.strides)


@pytest.mark.law
@pytest.mark.parametrize("limit", [1, 3, 64])
def test_a_cache_holds_what_the_teacher_says_of_each_view_alone(
    world: World, tmp_path: Path, dataset: ViewDataset, teacher: Detector, alone: Alone, limit: int
) -> None:
    recipe = world.exact(f"cache.batch_size={limit}", cache=tmp_path)
    finish(build_cache.run(recipe, device="cpu"))
    batch = collate([dataset[key] for key in KEYS])
    answer = CacheReader.open_(tmp_path).lookup(batch)
    assert_says_the_same(answer, batch, alone, teacher.grid.strides)


@pytest.mark.law
def test_an_image_seen_on_a_larger_canvas_would_be_another_one(
    dataset: ViewDataset, teacher: Detector, alone: Alone
) -> None:
    """Why views are cut back to their own canvas: the padding moves the logits."""
    key, wide = ViewKey(1, 0), ViewKey(5, 0)
    batch = collate([dataset[key], dataset[wide]])
    assert batch.views[0].padded_hw != batch.canvas_hw
    padded = rows_of_group(teacher, batch, 9)
    here = padded.rows.image == 0
    assert (padded.bbox_logits[here] - alone[key].bbox_logits).abs().max() > 100 * CLOSE


@pytest.mark.contract
def test_a_part_of_a_batch_is_cut_back_to_its_own_canvas(dataset: ViewDataset) -> None:
    batch = collate([dataset[key] for key in (ViewKey(5, 0), ViewKey(1, 1), ViewKey(1, 0))])
    part = part_of_batch(batch, [1, 2])
    assert part.keys == (ViewKey(1, 1), ViewKey(1, 0))
    assert part.canvas_hw == (64, 64)
    assert part.pixels[0].equal(torch.from_numpy(dataset[ViewKey(1, 1)].pixels))
    assert part.ground_truth.boxes.equal(batch.ground_truth.boxes[1:])


@pytest.mark.contract
def test_a_teacher_learns_nothing_and_stays_as_it_is(
    dataset: ViewDataset, teacher: Detector
) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    batch = collate([dataset[key] for key in KEYS[:3]])
    answer = LiveTeacher(teacher, topk=9, batch_size=2).lookup(batch)
    assert not answer.bbox_logits.requires_grad
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(value.equal(before[name]) for name, value in teacher.state_dict().items())
