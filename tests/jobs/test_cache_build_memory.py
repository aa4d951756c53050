"""Where memory runs out, the teacher is asked about half as many views, and says so."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ldkit.cache.format import Coverage, MainRegion, Wanted
from ldkit.cache.info import info
from ldkit.data.dataset import ViewDataset, load_batches
from ldkit.errors import UsageError
from ldkit.jobs import build_cache
from ldkit.jobs.cache_build_memory import Answer, Asking, is_exhausted
from ldkit.jobs.progress import Note, Progress
from ldkit.jobs.teacher_rows import ask
from ldkit.jobs.train import Material
from ldkit.models.gfl import Detector
from ldkit.structures import Batch, Predictions, ViewKey
from tests.jobs.conftest import World
from tests.jobs.tiny import finish, told

ASKED = Wanted(Coverage(main=MainRegion(topk=9)), frozenset({"main.bbox_logits"}))
SIZES = ("cache.batch_size=4", "cache.shard_mb=0.005")
VIEW = 64 * 64
"""Pixels of a view of `batch`."""
ERRORS: list[Callable[[], Exception]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    lambda: RuntimeError("MPS backend out of memory (MPS allocated: 9.1 GB)"),
    lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    lambda: MemoryError(),
]


@dataclass
class Narrow:
    """The memory of a teacher: room for so many pixels at once."""

    room: int
    error: Callable[[], Exception] = ERRORS[0]
    seen: list[int] = field(default_factory=list)

    def watch(self, teacher: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let every forward of the teacher fail that does not fit."""
        forward = teacher.boxes

        def watched(images: Tensor) -> Predictions:
            self.seen.append(images[:, 0].numel())
            if self.seen[-1] > self.room:
                raise self.error()
            return forward(images)

        monkeypatch.setattr(teacher, "boxes", watched)


@pytest.fixture
def teacher(world: World) -> Detector:
    """The teacher of the world."""
    return build_cache.load_teacher(world.teacher, torch.device("cpu"), channels_last=True)


@pytest.fixture
def batch(world: World) -> Batch:
    """Seven views of one canvas."""
    material = Material.of(world.student())
    keys = [ViewKey(image, 0) for image in (1, 8)] * 4
    dataset = ViewDataset(material.records, material.draw)
    return next(load_batches(dataset, [keys[:7]], workers=0, device=torch.device("cpu")))


def gap(count: int, now: int) -> str:
    return (
        f"Memory does not suffice for {count} views of 64 x 64 at once: going on with {now}. "
        f"Their rows may differ in the last bits from those of {count}."
    )


@pytest.mark.contract
@pytest.mark.parametrize("error", ERRORS)
def test_batches_are_halved_until_they_fit_and_stay_so(
    teacher: Detector,
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], Exception],
) -> None:
    whole = ask(teacher, batch, ASKED)
    gate = Narrow(2 * VIEW, error)
    gate.watch(teacher, monkeypatch)
    asking = Asking(teacher, ASKED, most=8)
    found = list(asking.answers(batch))
    notes = [each.text for each in found if isinstance(each, Note)]
    assert notes == [gap(7, 3), gap(3, 1)]
    answers = [each for each in found if isinstance(each, Answer)]
    assert [key for each in answers for key in each.batch.keys] == list(batch.keys)
    logits = torch.cat([each.said.bbox_logits for each in answers])
    assert_close(logits, whole.bbox_logits, atol=1e-4, rtol=1e-4)
    assert gate.seen == [7 * VIEW, 3 * VIEW, *[VIEW] * 7]
    assert not [each for each in asking.answers(batch) if isinstance(each, Note)]


@pytest.mark.contract
def test_a_single_view_that_does_not_fit_is_the_end(
    teacher: Detector, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    Narrow(0).watch(teacher, monkeypatch)
    with pytest.raises(UsageError) as ended:
        list(Asking(teacher, ASKED, most=2).answers(batch))
    assert ended.value.where == "image 1, view 0"
    assert ended.value.message == ("memory does not suffice for 1 view of 64 x 64 pixels on cpu.")
    assert "--device cpu" in ended.value.hint


@pytest.mark.contract
def test_other_errors_are_no_lack_of_memory(
    teacher: Detector, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    Narrow(0, lambda: RuntimeError("shapes differ")).watch(teacher, monkeypatch)
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(Asking(teacher, ASKED, most=2).answers(batch))
    assert not is_exhausted(ValueError("out of memory"))


@pytest.mark.law
def test_a_build_that_ran_out_of_memory_is_whole_and_keeps_its_plan(
    world: World, teacher: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_cache, "load_teacher", lambda *_, **__: teacher)
    boxes = "cache.main.cls_logits=null"
    whole, usual = Narrow(10**9), world.student(boxes, *SIZES, cache=tmp_path / "usual")
    with monkeypatch.context() as patch:
        whole.watch(teacher, patch)
        finish(build_cache.run(usual, device="cpu"))
    tight, recipe = Narrow(max(whole.seen) - 1), world.student(boxes, *SIZES, cache=tmp_path / "t")
    tight.watch(teacher, monkeypatch)
    said = told(build_cache.run(recipe, device="cpu"))
    (note,) = [each for each in said if isinstance(each, Note)]
    assert said[0] == note  # before anything is done: the largest batch comes first
    assert note.text.startswith("Memory does not suffice for 4 views of ")
    assert said[-1] == Progress(20, 20, "views")
    ours, theirs = info(tmp_path / "t"), info(tmp_path / "usual")
    assert ours.plan == theirs.plan
    assert ours.plan.build.batch_size == 4
    assert ours.is_sealed
    assert ours.rows == theirs.rows
