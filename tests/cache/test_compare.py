import logging
import re
from pathlib import Path

import pytest

from ldkit.cache.compare import Difference, differences, require_fit, require_same_plan
from ldkit.cache.format import Source, Wanted
from ldkit.errors import CacheCoverage, CacheMismatch
from tests.cache.synthetic import AXES, EVERY, SOURCES, make_coverage, make_keys, make_plan

PLAN = make_plan(make_keys(3))
FOLDER = Path("caches/r101")
HINT = (
    "Point `teacher.checkpoint` at the original teacher, or build a new cache "
    "(`--out caches/NAME`)."
)
OTHER_WEIGHTS = Source(fingerprint="a9" * 32, facts={"file": "r50.pt"})


def with_sources(**parts):
    return PLAN.model_copy(update={"sources": SOURCES.model_copy(update=parts)})


@pytest.mark.contract
def test_another_teacher_is_shown_side_by_side() -> None:
    with pytest.raises(CacheMismatch) as caught:
        require_same_plan(PLAN, with_sources(weights=OTHER_WEIGHTS), FOLDER)
    assert str(caught.value) == "\n".join(
        [
            "caches/r101: was made for another teacher.",
            "",
            "             cache          this recipe",
            "  weights    4f4f4f4f4f4f   a9a9a9a9a9a9",
            "    file     r101.pt        r50.pt",
            "  model      same",
            "  data       same",
            "  views      same",
            "  render     same",
            "  axes       same",
            "  coverage   same",
            "  columns    same",
            "  build      same",
            "  keys       same",
            "",
            HINT,
        ]
    )


@pytest.mark.contract
def test_of_another_view_policy_just_the_differing_fields_are_shown() -> None:
    views = Source.of({"short_side_px": 640, "flip": 0.5, "count": None, "seed": 0})
    with pytest.raises(CacheMismatch) as caught:
        require_same_plan(PLAN, with_sources(views=views), FOLDER)
    text = str(caught.value)
    assert "was made for another view policy." in text
    assert "    short_side_px   800            640\n" in text
    assert "flip" not in text
    assert "Set `views` and `seed` as they were, or build" in text


@pytest.mark.contract
def test_nested_fields_and_several_parts_are_shown_together() -> None:
    model = Source.of({"backbone": {"name": "resnet50"}, "head": {"reg_max": 4}})
    wanted = with_sources(weights=OTHER_WEIGHTS, model=model)
    wanted = wanted.model_copy(update={"axes": AXES.model_copy(update={"num_bins": 9})})
    with pytest.raises(CacheMismatch) as caught:
        require_same_plan(PLAN, wanted, FOLDER)
    text = str(caught.value)
    assert "for another teacher and another detector and other axes." in text
    assert "    backbone.name   resnet101      resnet50\n" in text
    assert "    num_bins        5              9\n" in text


@pytest.mark.contract
def test_a_field_that_one_side_lacks_is_a_dash() -> None:
    data = Source(fingerprint="db" * 32, facts={"annotations": "train.json"})
    with pytest.raises(CacheMismatch) as caught:
        require_same_plan(PLAN, with_sources(data=data), FOLDER)
    assert "    images   12             -\n" in str(caught.value)
    assert "Point `data` at the original data set" in str(caught.value)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("other", "phrase", "line"),
    [
        (make_plan(make_keys(4)), "other views", "    count    6"),
        (make_plan(make_keys(3), 5), "other shards or batches", "    views_per_shard   4"),
        (make_plan(make_keys(3), cls_logits=None), "other columns", "    main.cls_logits   fp16"),
    ],
)
def test_every_part_that_changes_bytes_is_compared(other, phrase, line) -> None:
    with pytest.raises(CacheMismatch) as caught:
        require_same_plan(PLAN, other, FOLDER)
    assert phrase in str(caught.value)
    assert line in str(caught.value)
    assert "Set the recipe as it was, " in str(caught.value)


@pytest.mark.contract
def test_what_could_be_added_to_a_cache_is_told_with_the_way_to_add_it() -> None:
    data = with_sources(data=Source(fingerprint="db" * 32, facts={"annotations": "more.json"}))
    fewer = Source.of({"short_side_px": 800, "flip": 0.5, "count": 3, "seed": 0})
    for wanted in [data, with_sources(views=fewer), make_plan(make_keys(4))]:
        with pytest.raises(CacheMismatch) as caught:
            require_same_plan(PLAN, wanted, FOLDER)
        assert str(caught.value).endswith(
            ", add what is missing to it (`ldkit cache-logits RECIPE --extend`), or build a new "
            "cache (`--out caches/NAME`)."
        )
    for wanted in [with_sources(weights=OTHER_WEIGHTS), make_plan(make_keys(3), 5)]:
        with pytest.raises(CacheMismatch) as caught:
            require_same_plan(PLAN, wanted, FOLDER)
        assert "--extend" not in str(caught.value)


@pytest.mark.contract
def test_a_moved_file_and_another_ldkit_are_no_difference() -> None:
    moved = Source(fingerprint=SOURCES.weights.fingerprint, facts={"file": "elsewhere/r101.pt"})
    wanted = with_sources(weights=moved).model_copy(update={"ldkit": "0.2.0"})
    require_same_plan(PLAN, wanted, FOLDER)


@pytest.mark.contract
def test_a_student_needs_the_same_teacher_data_views_axes_and_rows() -> None:
    wanted = Wanted(make_coverage(), frozenset({"main.cls_logits"}))
    require_fit((PLAN,), SOURCES, AXES, wanted, FOLDER)
    other = SOURCES.model_copy(update={"weights": OTHER_WEIGHTS})
    with pytest.raises(CacheMismatch, match="another teacher"):
        require_fit((PLAN,), other, AXES, wanted, FOLDER)
    axes = AXES.model_copy(update={"num_bins": 9})
    with pytest.raises(CacheMismatch, match=r"num_bins +5 +9"):
        require_fit((PLAN,), SOURCES, axes, wanted, FOLDER)
    with pytest.raises(CacheCoverage, match="holds no rows of the VLR"):
        require_fit((PLAN,), SOURCES, AXES, Wanted(make_coverage(["vlr"]), frozenset()), FOLDER)


@pytest.mark.contract
def test_a_cache_may_hold_more_than_a_student_reads() -> None:
    whole = make_plan(make_keys(3), held=EVERY)
    for count in range(len(EVERY) + 1):
        wanted = Wanted(make_coverage(EVERY[:count]), frozenset())
        require_fit((whole,), SOURCES, whole.axes, wanted, FOLDER)


@pytest.mark.contract
def test_the_width_of_features_counts_only_where_they_are_read() -> None:
    whole = make_plan(make_keys(3), held=EVERY)
    wider = whole.axes.model_copy(update={"channels": 256})
    for held in [(), ("vlr",), ("score",)]:
        require_fit((whole,), SOURCES, wider, Wanted(make_coverage(held), frozenset()), FOLDER)
    for held in [("imitation",), ("cross",)]:
        wanted = Wanted(make_coverage(held), frozenset())
        require_fit((whole,), SOURCES, AXES, wanted, FOLDER)  # it does not say how wide
        with pytest.raises(CacheMismatch, match=r"channels +4 +256"):
            require_fit((whole,), SOURCES, wider, wanted, FOLDER)
        with pytest.raises(CacheCoverage):
            require_fit((PLAN,), SOURCES, wider, wanted, FOLDER)


@pytest.mark.contract
def test_a_build_goes_on_with_no_other_groups() -> None:
    whole = make_plan(make_keys(3), held=["vlr"])
    with pytest.raises(CacheMismatch) as caught:
        require_same_plan(PLAN, whole, FOLDER)
    assert "was made for other rows and other columns." in str(caught.value)
    assert re.search(r"^    vlr.floor +-  +0.25$", str(caught.value), re.MULTILINE)
    assert differences(whole, PLAN)[0] == Difference("coverage", "coverage.vlr.topk", "9", "-")


@pytest.mark.contract
def test_another_renderer_only_warns_a_student_but_stops_a_build(caplog) -> None:
    render = Source.of({"render": 1, "opencv": "4.9.0"})
    wanted = Wanted(make_coverage(), frozenset())
    with caplog.at_level(logging.WARNING):
        sources = SOURCES.model_copy(update={"render": render})
        require_fit((PLAN,), sources, AXES, wanted, FOLDER)
    assert 'rendered by {"opencv":"5.0.0","render":1}' in caplog.text
    with pytest.raises(CacheMismatch, match="another renderer"):
        require_same_plan(PLAN, with_sources(render=render), FOLDER)


@pytest.mark.contract
def test_differences_are_values_and_fingerprints_only_where_these_are_equal() -> None:
    views = Source.of({"short_side_px": 640, "flip": 0.5, "count": None, "seed": 0})
    same_facts = Source(fingerprint="a9" * 32, facts=SOURCES.weights.facts)
    wanted = with_sources(views=views, weights=same_facts)
    assert differences(PLAN, wanted) == (
        Difference("weights", "weights", "4f4f4f4f4f4f", "a9a9a9a9a9a9"),
        Difference("views", "views.short_side_px", "800", "640"),
    )
    assert differences(PLAN, PLAN.model_copy(update={"ldkit": "0.0.1"})) == ()
