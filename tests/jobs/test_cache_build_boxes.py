"""A cache of boxes alone takes no class tower, and has the same boxes."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from ldkit.cache.folder import CacheFolder
from ldkit.cache.format import Coverage, CrossRegion, MainRegion, ScoreRegion, VlrRegion, Wanted
from ldkit.jobs import build_cache
from ldkit.jobs.teacher_rows import asks_classes
from ldkit.models.gfl import Detector
from tests.jobs.conftest import World
from tests.jobs.tiny import finish

BOXES = (
    "cache.main={bbox_logits: fp32, cls_logits: null}",
    "cache.vlr={bbox_logits: fp32, cls_logits: null}",
    "cache.imitation={region: main, features: fp32}",
    "objective.imitation={region: main}",
    "cache.shard_mb=0.02",
    "cache.batch_size=3",
)
CLASSES = ("cache.main.cls_logits=fp32", "cache.vlr.cls_logits=fp32")
MAIN = MainRegion(topk=9)
VLR = VlrRegion(topk=9, overlap="diou", floor=0.25)


def built(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str
) -> tuple[list[dict[str, bytes]], int]:
    """Build a cache; return the columns of its shards, and how often the class tower ran."""
    ran: list[nn.Module] = []
    load = build_cache.load_teacher

    def counting(path: Path, device: torch.device, *, channels_last: bool) -> Detector:
        teacher = load(path, device, channels_last=channels_last)
        teacher.head.cls_tower.register_forward_hook(lambda tower, *_: ran.append(tower))
        return teacher

    with monkeypatch.context() as patch:
        patch.setattr(build_cache, "load_teacher", counting)
        finish(build_cache.run(world.student(*BOXES, *more, cache=folder), device="cpu"))
    shards = sorted(CacheFolder(folder).shards.glob("*.safetensors"))
    return [columns(path) for path in shards], len(ran)


def columns(path: Path) -> dict[str, bytes]:
    """Return the bytes of the columns of a shard, by name."""
    with safe_open(path, "numpy") as shard:
        return {name: shard.get_tensor(name).tobytes() for name in shard.keys()}  # noqa: SIM118


@pytest.mark.law
@pytest.mark.parametrize("asked", CLASSES)
def test_boxes_and_features_are_the_same_without_the_class_tower(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    same_views = ("cache.shard_mb=100", asked)  # one shard: its length depends on what is stored
    alone, ran = built(world, tmp_path / "boxes", monkeypatch, "cache.shard_mb=100")
    whole, ran_too = built(world, tmp_path / "all", monkeypatch, *same_views)
    assert ran == 0
    assert ran_too > 0
    (boxes,), (everything,) = alone, whole
    (added,) = set(everything) - set(boxes)
    assert added.endswith(".cls_logits")
    assert boxes == {name: everything[name] for name in boxes}
    assert {"main.bbox_logits", "vlr.bbox_logits", "imitation.features"} <= set(boxes)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("coverage", "columns", "needed"),
    [
        (Coverage(main=MAIN), {"main.bbox_logits"}, False),
        (Coverage(main=MAIN, vlr=VLR), {"main.bbox_logits", "vlr.bbox_logits"}, False),
        (Coverage(main=MAIN), {"main.bbox_logits", "main.cls_logits"}, True),
        (Coverage(main=MAIN, vlr=VLR), {"main.bbox_logits", "vlr.cls_logits"}, True),
        (Coverage(main=MAIN, score=ScoreRegion(floor=0.05)), {"main.bbox_logits"}, True),
        (Coverage(main=MAIN, cross=CrossRegion(after=1)), {"main.bbox_logits"}, True),
    ],
)
def test_classes_are_needed_by_what_comes_out_of_their_tower(
    coverage: Coverage, columns: set[str], needed: bool
) -> None:
    assert asks_classes(Wanted(coverage, frozenset(columns))) is needed
