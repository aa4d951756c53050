"""What a teacher says of an image depends on that image's view, and on nothing beside it."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ldkit.cache.format import Wanted
from ldkit.cache.reader import CacheReader
from ldkit.data.dataset import ViewDataset, collate
from ldkit.jobs import build_cache
from ldkit.jobs.build_cache import load_teacher
from ldkit.jobs.coverage import wanted
from ldkit.jobs.live_teacher import LiveTeacher, part_of_batch
from ldkit.jobs.teacher_rows import ask, rows_of_group
from ldkit.jobs.train import Material
from ldkit.models.gfl import Detector
from ldkit.ops.anchors import relocate
from ldkit.structures import Batch, DenseTeacher, TeacherRows, View, ViewKey
from tests.jobs.conftest import World
from tests.jobs.tiny import EVERY_TERM, finish

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
def asked(world: World) -> Wanted:
    """Everything that a student can read."""
    return wanted(world.student(*EVERY_TERM))


@pytest.fixture(scope="module")
def alone(dataset: ViewDataset, teacher: Detector, asked: Wanted) -> Alone:
    """What the teacher says of each view that it sees by itself."""
    return {key: rows_of_group(teacher, collate([dataset[key]]), asked, dense=True) for key in KEYS}


def assert_says_the_same(
    answer: TeacherRows, batch: Batch, alone: Alone, strides: tuple[int, ...]
) -> None:
    """Check rows and what is said at them against each view's own."""
    found = _tables(answer)
    for image, *_ in found.values():
        assert image.equal(image.sort().values)
    for position, key in enumerate(batch.keys):
        view: View = batch.views[position]
        own = _tables(alone[key])
        assert own.keys() == found.keys()
        for name, (image, location, *columns) in found.items():
            here = image == position
            _, own_location, *own_columns = own[name]
            moved = relocate(own_location, view.padded_hw, batch.canvas_hw, strides)
            assert location[here].equal(moved), name
            for ours, theirs in zip(columns, own_columns, strict=True):
                assert_close(ours[here], theirs, atol=CLOSE, rtol=1e-4, msg=f"{name}: {{}}".format)
        assert answer.cross is not None
        theirs = alone[key].cross
        assert theirs is not None
        assert_close(answer.cross.mean[position], theirs.mean[0], atol=CLOSE, rtol=1e-4)
        assert_close(answer.cross.std[position], theirs.std[0], atol=CLOSE, rtol=1e-4)


def _tables(answer: TeacherRows) -> dict[str, tuple[Tensor, ...]]:
    """Return image, location and all further columns of each group of rows."""
    main, vlr, imitation, score = answer.main, answer.vlr, answer.imitation, answer.score
    assert vlr is not None
    assert imitation is not None
    assert score is not None
    tables = {"imitation": tuple(imitation), "score": tuple(score[:3])}
    for name, region in (("main", main), ("vlr", vlr)):
        assert region.cls_logits is not None
        columns = (region.rows.gt_index, region.bbox_logits, region.cls_logits)
        tables[name] = (region.rows.image, region.rows.location, *columns)
    image, location = score.image[score.row], score.location[score.row]
    tables["classes"] = (image, location, score.label, score.logit)
    return tables


@pytest.mark.law
def test_the_teacher_sees_zero_beyond_a_view(
    dataset: ViewDataset, teacher: Detector, asked: Wanted
) -> None:
    batch = collate([dataset[KEYS[0]]])
    whole, (height, width) = batch.views[0], batch.canvas_hw
    smaller = View(whole.source_hw, (height - 8, width - 8), whole.padded_hw, whole.flip)
    seen: list[Tensor] = []
    hook = teacher.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    ask(teacher, batch._replace(views=(smaller,)), asked)
    hook.remove()
    assert not seen[0][:, :, -8:].any()
    assert not seen[0][..., -8:].any()
    assert seen[0][:, :, :-8, :-8].any()


@pytest.mark.law
@settings(deadline=None, max_examples=25)
@given(
    keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=7, unique=True),
    limit=st.integers(1, 5),
)
def test_teacher_rows_do_not_depend_on_their_batch(
    dataset: ViewDataset,
    teacher: Detector,
    asked: Wanted,
    alone: Alone,
    keys: list[ViewKey],
    limit: int,
) -> None:
    batch = collate([dataset[key] for key in keys])
    answer = LiveTeacher(teacher, asked, batch_size=limit, dense=True).lookup(batch)
    assert_says_the_same(answer, batch, alone, teacher.grid.strides)
    assert answer.dense is not None
    _check_dense(answer.dense, batch, alone, teacher.grid.strides)


def _check_dense(dense: DenseTeacher, batch: Batch, alone: Alone, strides: tuple[int, ...]) -> None:
    """Check that each view's own canvas has its own values, and the padding none."""
    for position, key in enumerate(batch.keys):
        own = alone[key].dense
        assert own is not None
        every = torch.arange(own.valid.shape[1])
        place = relocate(every, batch.views[position].padded_hw, batch.canvas_hw, strides)
        beyond = torch.ones(dense.valid.shape[1], dtype=torch.bool).index_fill(0, place, False)
        for ours, theirs in zip(dense, own, strict=True):
            assert_close(ours[position, place], theirs[0], atol=CLOSE, rtol=1e-4)
            assert not ours[position, beyond].any()


@pytest.mark.law
@pytest.mark.parametrize("limit", [1, 3, 64])
def test_a_cache_holds_what_the_teacher_says_of_each_view_alone(
    world: World, tmp_path: Path, dataset: ViewDataset, teacher: Detector, alone: Alone, limit: int
) -> None:
    recipe = world.student(*EVERY_TERM, f"cache.batch_size={limit}", cache=tmp_path)
    finish(build_cache.run(recipe, device="cpu"))
    batch = collate([dataset[key] for key in KEYS])
    answer = CacheReader.open_(tmp_path).lookup(batch)
    assert_says_the_same(answer, batch, alone, teacher.grid.strides)


@pytest.mark.law
def test_an_image_seen_on_a_larger_canvas_would_be_another_one(
    dataset: ViewDataset, teacher: Detector, asked: Wanted, alone: Alone
) -> None:
    """Why views are cut back to their own canvas: the padding moves the logits."""
    key, wide = ViewKey(1, 0), ViewKey(5, 0)
    batch = collate([dataset[key], dataset[wide]])
    assert batch.views[0].padded_hw != batch.canvas_hw
    padded = rows_of_group(teacher, batch, asked).main
    here = padded.rows.image == 0
    assert (padded.bbox_logits[here] - alone[key].main.bbox_logits).abs().max() > 100 * CLOSE


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
    dataset: ViewDataset, teacher: Detector, asked: Wanted
) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    batch = collate([dataset[key] for key in KEYS[:3]])
    answer = LiveTeacher(teacher, asked, batch_size=2).lookup(batch).main
    assert not answer.bbox_logits.requires_grad
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(value.equal(before[name]) for name, value in teacher.state_dict().items())
