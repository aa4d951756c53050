import pytest

from ldkit.cache.format import ScoreRegion, VlrRegion, Wanted
from ldkit.cache.routes import raised_floor, routes
from tests.cache.synthetic import EVERY, make_coverage, make_keys, make_plan
from tests.cache.test_generations import without_classes

KEYS = make_keys(2)
BARE, WHOLE = make_plan(KEYS), make_plan(KEYS, held=EVERY)
VLR = without_classes(make_plan(KEYS, held=["vlr"]))


def told(plans, wanted: Wanted | None) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    return [
        (tuple(group.name for group in route.groups), route.generations)
        for route in routes(plans, wanted)
    ]


@pytest.mark.contract
def test_groups_that_lie_together_are_found_together() -> None:
    names = tuple(group.name for group in WHOLE.groups)
    assert told([WHOLE], None) == [(names, (0,))]
    assert told([WHOLE, WHOLE], None) == [(names, (1, 0))]
    assert told([BARE, WHOLE, VLR], None) == [
        (("main",), (1, 0)),
        (("vlr",), (2, 1)),
        (("imitation", "score", "score_class", "cross"), (1,)),
    ]


@pytest.mark.contract
def test_a_generation_answers_for_what_it_holds_as_it_is_wanted() -> None:
    plans = [WHOLE, VLR]
    bare = Wanted(make_coverage(["vlr"]), frozenset())
    assert told(plans, bare) == [(("main", "vlr"), (1, 0))]
    classes = Wanted(make_coverage(["vlr"]), frozenset({"main.cls_logits"}))
    assert told(plans, classes) == [(("main",), (0,)), (("vlr",), (1, 0))]
    other = VlrRegion(topk=9, overlap="published", floor=0.25)
    held = VLR.model_copy(update={"coverage": VLR.coverage.model_copy(update={"vlr": other})})
    assert told([WHOLE, held], bare) == [(("main",), (1, 0)), (("vlr",), (0,))]


@pytest.mark.contract
def test_scores_are_cut_off_only_where_lower_ones_are_held() -> None:
    def wanted(floor: float) -> Wanted:
        score = make_coverage().model_copy(update={"score": ScoreRegion(floor=floor)})
        return Wanted(score, frozenset())

    assert raised_floor([BARE, WHOLE], wanted(0.05)) is None
    assert raised_floor([BARE, WHOLE], wanted(0.3)) == 0.3
    assert raised_floor([BARE, WHOLE], None) is None
    assert raised_floor([BARE], wanted(0.3)) is None
