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
from ldkit.cache.shortfall import coverage_error, holds, shortfalls
from tests.cache.synthetic import EVERY, make_coverage, make_keys, make_plan

KEYS = make_keys(2)
WHOLE = make_plan(KEYS, held=EVERY)
BARE = make_plan(KEYS, cls_logits=None)
CLASSES = frozenset({"main.cls_logits", "vlr.cls_logits"})


def told(plan, coverage: Coverage, columns: frozenset[str] = frozenset()) -> str:
    found = tuple(shortfalls((plan,), Wanted(coverage, columns)))
    return str(coverage_error(found, Path("caches/r101")))


def ways(settings: str, rebuild: str) -> str:
    return (
        f"Set {settings}, or store it (`{rebuild}`): beside what is there (`ldkit cache-logits "
        "RECIPE --extend`), or in a new cache (`--out caches/NAME`)."
    )


def other(**regions) -> Coverage:
    return Coverage(**{"main": MainRegion(topk=9), **regions})


@pytest.mark.law
def test_a_cache_that_holds_all_that_is_wanted_has_no_shortfall() -> None:
    assert not list(shortfalls((WHOLE,), Wanted(make_coverage(EVERY), CLASSES)))
    assert not list(shortfalls((WHOLE,), Wanted(make_coverage(), frozenset())))
    assert not list(shortfalls((BARE,), Wanted(make_coverage(), frozenset({"main.bbox_logits"}))))


@pytest.mark.contract
@pytest.mark.parametrize(
    ("coverage", "text"),
    [
        (
            other(vlr=VlrRegion(topk=9, overlap="diou", floor=0.1)),
            (
                "caches/r101: holds the VLR down to 0.25 of the threshold (cache.vlr, "
                "objective.vlr.floor), this recipe wants 0.1.\n"
                + ways("`objective.vlr.floor=0.25`", "--set objective.vlr.floor=0.1")
            ),
        ),
        (
            other(vlr=VlrRegion(topk=9, overlap="diou", floor=0.5)),
            (
                "caches/r101: holds the VLR down to 0.25 of the threshold (cache.vlr, "
                "objective.vlr.floor), this recipe wants 0.5 (rows above a higher floor may belong "
                "to other boxes, so they cannot be picked out).\n"
                + ways("`objective.vlr.floor=0.25`", "--set objective.vlr.floor=0.5")
            ),
        ),
        (
            other(vlr=VlrRegion(topk=9, overlap="published", floor=0.25)),
            (
                "caches/r101: holds the VLR by overlap diou (cache.vlr, objective.vlr.overlap), "
                "this recipe wants published.\n"
                + ways("`objective.vlr.overlap=diou`", "--set objective.vlr.overlap=published")
            ),
        ),
        (
            other(main=MainRegion(topk=12)),
            (
                "caches/r101: holds the main region with topk 9 (objective.assign.topk), this "
                "recipe wants 12.\n"
                + ways("`objective.assign.topk=9`", "--set objective.assign.topk=12")
            ),
        ),
        (
            other(imitation=ImitationRegion(region="main")),
            (
                "caches/r101: holds features at fine_grained (cache.imitation.region), this recipe "
                "wants main.\n"
                + ways(
                    "`objective.imitation.region=fine_grained`", "--set cache.imitation.region=main"
                )
            ),
        ),
        (
            other(score=ScoreRegion(floor=0.01)),
            (
                "caches/r101: holds locations with a score down to 0.05 (cache.score, "
                "objective.score.floor), this recipe wants 0.01.\n"
                + ways("`objective.score.floor=0.05`", "--set objective.score.floor=0.01")
            ),
        ),
        (
            other(cross=CrossRegion(after=2)),
            (
                "caches/r101: holds head features after convolution 3 (cache.cross.after), this "
                "recipe wants 2.\n" + ways("`objective.cross.after=3`", "--set cache.cross.after=2")
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
                + ways(
                    "`objective.localization.vlr=null` and `objective.classification_kd.vlr=null`",
                    "--set 'cache.vlr={}'",
                )
            ),
        ),
        (
            "imitation",
            (
                "caches/r101: holds no features (cache.imitation), this recipe reads them.\n"
                + ways(
                    "`objective.imitation=null`", "--set 'cache.imitation={region: fine_grained}'"
                )
            ),
        ),
        (
            "score",
            (
                "caches/r101: holds no scored locations (cache.score), this recipe reads them.\n"
                + ways(
                    "`objective.score.classification=null`, `objective.score.box=null`, "
                    "`objective.cross.classification=null` and `objective.cross.box=null`",
                    "--set 'cache.score={}'",
                )
            ),
        ),
        (
            "cross",
            (
                "caches/r101: holds no statistics of head features (cache.cross), this recipe "
                "reads them.\n"
                + ways(
                    "`objective.cross.classification=null` and `objective.cross.box=null`",
                    "--set 'cache.cross={after: 3}'",
                )
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
        + ways("`objective.classification_kd.main=null`", "--set cache.main.cls_logits=fp16")
    )


@pytest.mark.contract
def test_several_shortfalls_are_told_at_once_and_every_setting_once() -> None:
    coverage = Coverage(main=MainRegion(topk=5), vlr=VlrRegion(topk=5, overlap="diou", floor=0.25))
    plan = make_plan(KEYS, cls_logits=None, held=["vlr"])
    assert told(plan, coverage, CLASSES) == (
        "caches/r101: does not hold what this recipe reads.\n"
        "  holds the main region with topk 9 (objective.assign.topk), this recipe wants 5.\n"
        "  holds no class logits of main rows (cache.main.cls_logits), this recipe reads them.\n"
        "  holds the VLR with topk 9 (objective.assign.topk), this recipe wants 5.\n"
        "  holds no class logits of the VLR (cache.vlr.cls_logits), this recipe reads them.\n"
        + ways(
            "`objective.assign.topk=9`, `objective.classification_kd.main=null` and "
            "`objective.classification_kd.vlr=null`",
            "--set objective.assign.topk=5 --set cache.main.cls_logits=fp16 "
            "--set cache.vlr.cls_logits=fp16",
        )
    )


@pytest.mark.law
def test_scores_down_to_a_lower_floor_hold_those_above_a_higher_one() -> None:
    for floor, fits in [(0.04, False), (0.05, True), (0.051, True), (0.9, True)]:
        wanted = Wanted(other(score=ScoreRegion(floor=floor)), frozenset())
        assert holds(WHOLE, wanted, "score") is fits
        assert fits is (not list(shortfalls((WHOLE,), wanted)))


@pytest.mark.law
def test_what_one_generation_holds_is_no_shortfall() -> None:
    wanted = Wanted(make_coverage(["vlr", "cross"]), CLASSES)
    only = [make_plan(KEYS, held=[name]) for name in ("vlr", "cross")]
    assert not list(shortfalls(only, wanted))
    assert [found.held for found in shortfalls(only[:1], wanted)] == [
        "no statistics of head features (cache.cross)"
    ]


@pytest.mark.contract
def test_of_several_generations_one_that_holds_it_otherwise_is_told() -> None:
    coverage = make_coverage(["vlr"]).model_copy(
        update={"vlr": VlrRegion(topk=9, overlap="published", floor=0.25)}
    )
    held = make_plan(KEYS, held=["vlr"])
    for plans in [(BARE, held), (held, BARE)]:
        (found,) = shortfalls(plans, Wanted(coverage, frozenset()))
        assert found.held.startswith("the VLR by overlap diou")
