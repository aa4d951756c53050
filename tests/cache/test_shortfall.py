from pathlib import Path

import pytest

from ldkit.cache.format import (
    Coverage,
    CrossRegion,
    ImitationRegion,
    MainRegion,
    ScoreRegion,
    VlrRegion,
    Wanted,
)
from ldkit.cache.shortfall import coverage_error, shortfalls
from tests.cache.synthetic import EVERY, make_coverage, make_keys, make_plan

KEYS = make_keys(2)
WHOLE = make_plan(KEYS, held=EVERY)
BARE = make_plan(KEYS, cls_logits=None)
CLASSES = frozenset({"main.cls_logits", "vlr.cls_logits"})


def told(plan, coverage: Coverage, columns: frozenset[str] = frozenset()) -> str:
    found = tuple(shortfalls(plan, Wanted(coverage, columns)))
    return str(coverage_error(found, Path("caches/r101")))


def other(**regions) -> Coverage:
    return Coverage(**{"main": MainRegion(topk=9), **regions})


@pytest.mark.law
def test_a_cache_that_holds_all_that_is_wanted_has_no_shortfall() -> None:
    assert not list(shortfalls(WHOLE, Wanted(make_coverage(EVERY), CLASSES)))
    assert not list(shortfalls(WHOLE, Wanted(make_coverage(), frozenset())))
    assert not list(shortfalls(BARE, Wanted(make_coverage(), frozenset({"main.bbox_logits"}))))


@pytest.mark.contract
@pytest.mark.parametrize(
    ("coverage", "text"),
    [
        (
            other(vlr=VlrRegion(topk=9, overlap="diou", floor=0.1)),
            (
                "caches/r101: holds the VLR down to 0.25 of the threshold (cache.vlr, "
                "objective.vlr.floor), this recipe wants 0.1.\n"
                "Set `objective.vlr.floor=0.25`, or build a new cache "
                "(`--out caches/NAME --set objective.vlr.floor=0.1`)."
            ),
        ),
        (
            other(vlr=VlrRegion(topk=9, overlap="published", floor=0.25)),
            (
                "caches/r101: holds the VLR by overlap diou (cache.vlr, objective.vlr.overlap), "
                "this recipe wants published.\n"
                "Set `objective.vlr.overlap=diou`, or build a new cache "
                "(`--out caches/NAME --set objective.vlr.overlap=published`)."
            ),
        ),
        (
            other(main=MainRegion(topk=12)),
            (
                "caches/r101: holds the main region with topk 9 (objective.assign.topk), this "
                "recipe wants 12.\n"
                "Set `objective.assign.topk=9`, or build a new cache "
                "(`--out caches/NAME --set objective.assign.topk=12`)."
            ),
        ),
        (
            other(imitation=ImitationRegion(region="main")),
            (
                "caches/r101: holds features at fine_grained (cache.imitation.region), this recipe "
                "wants main.\n"
                "Set `objective.imitation.region=fine_grained`, or build a new cache "
                "(`--out caches/NAME --set cache.imitation.region=main`)."
            ),
        ),
        (
            other(score=ScoreRegion(floor=0.01)),
            (
                "caches/r101: holds locations with a score down to 0.05 (cache.score, "
                "objective.score.floor), this recipe wants 0.01.\n"
                "Set `objective.score.floor=0.05`, or build a new cache "
                "(`--out caches/NAME --set objective.score.floor=0.01`)."
            ),
        ),
        (
            other(cross=CrossRegion(after=2)),
            (
                "caches/r101: holds head features after convolution 3 (cache.cross.after), this "
                "recipe wants 2.\n"
                "Set `objective.cross.after=3`, or build a new cache "
                "(`--out caches/NAME --set cache.cross.after=2`)."
            ),
        ),
    ],
)
def test_a_region_that_is_held_otherwise_is_told_with_both_ways_out(coverage, text) -> None:
    assert told(WHOLE, coverage) == text


@pytest.mark.contract
@pytest.mark.parametrize(
    ("region", "text"),
    [
        (
            "vlr",
            (
                "caches/r101: holds no rows of the VLR (cache.vlr), this recipe reads them.\n"
                "Set `objective.localization.vlr=null` and `objective.classification_kd.vlr=null`, "
                "or build a new cache (`--out caches/NAME --set 'cache.vlr={}'`)."
            ),
        ),
        (
            "imitation",
            (
                "caches/r101: holds no features (cache.imitation), this recipe reads them.\n"
                "Set `objective.imitation=null`, or build a new cache "
                "(`--out caches/NAME --set 'cache.imitation={region: fine_grained}'`)."
            ),
        ),
        (
            "score",
            (
                "caches/r101: holds no scored locations (cache.score), this recipe reads them.\n"
                "Set `objective.score.classification=null`, `objective.score.box=null`, "
                "`objective.cross.classification=null` and `objective.cross.box=null`, or build a "
                "new cache (`--out caches/NAME --set 'cache.score={}'`)."
            ),
        ),
        (
            "cross",
            (
                "caches/r101: holds no statistics of head features (cache.cross), this recipe "
                "reads them.\n"
                "Set `objective.cross.classification=null` and `objective.cross.box=null`, or "
                "build a new cache (`--out caches/NAME --set 'cache.cross={after: 3}'`)."
            ),
        ),
    ],
)
def test_a_region_that_is_not_held_is_told_with_the_terms_that_read_it(region, text) -> None:
    assert told(BARE, make_coverage([region])) == text


@pytest.mark.contract
def test_class_logits_that_are_not_held_are_told() -> None:
    assert told(BARE, make_coverage(), frozenset({"main.cls_logits"})) == (
        "caches/r101: holds no class logits of main rows (cache.main.cls_logits), this recipe "
        "reads them.\n"
        "Set `objective.classification_kd.main=null`, or build a new cache "
        "(`--out caches/NAME --set cache.main.cls_logits=fp16`)."
    )


@pytest.mark.contract
def test_several_shortfalls_are_told_at_once_and_every_setting_once() -> None:
    coverage = Coverage(main=MainRegion(topk=5), vlr=VlrRegion(topk=5, overlap="diou", floor=0.25))
    plan = make_plan(KEYS, cls_logits=None, held=["vlr"])
    assert told(plan, coverage, CLASSES) == (
        "caches/r101: does not hold what this recipe reads.\n"
        "  holds the main region with topk 9 (objective.assign.topk), this recipe wants 5.\n"
        "  holds the VLR with topk 9 (objective.assign.topk), this recipe wants 5.\n"
        "  holds no class logits of main rows (cache.main.cls_logits), this recipe reads them.\n"
        "  holds no class logits of the VLR (cache.vlr.cls_logits), this recipe reads them.\n"
        "Set `objective.assign.topk=9`, `objective.classification_kd.main=null` and "
        "`objective.classification_kd.vlr=null`, or build a new cache (`--out caches/NAME "
        "--set objective.assign.topk=5 --set cache.main.cls_logits=fp16 "
        "--set cache.vlr.cls_logits=fp16`)."
    )
