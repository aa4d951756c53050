import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ldkit.cache.document import from_bytes
from ldkit.cache.format import Axes, Columns, Coverage, Plan, Source, keys_digest, views_per_shard
from ldkit.structures import Grid, ViewKey
from tests.cache.synthetic import AXES, EVERY, make_keys, make_plan


@pytest.mark.law
@settings(deadline=None, max_examples=50)
@given(images=st.integers(1, 40), views=st.integers(1, 3), size=st.integers(1, 50))
def test_shards_cut_the_keys_into_equal_ranges_without_loss(images, views, size) -> None:
    keys = make_keys(images, views)
    plan = make_plan(keys, size)
    parts = [plan.keys_of(number, keys) for number in range(plan.shards)]
    assert tuple(itertools.chain.from_iterable(parts)) == keys
    assert all(len(part) == size for part in parts[:-1])
    assert 1 <= len(parts[-1]) <= size


@pytest.mark.law
def test_keys_that_do_not_rise_are_a_programming_error() -> None:
    keys = make_keys(3)
    for wrong in [keys[::-1], (*keys, keys[-1]), (keys[1], keys[0], *keys[2:])]:
        with pytest.raises(ValueError, match="rise strictly"):
            keys_digest(wrong)


@pytest.mark.law
def test_the_digest_of_keys_depends_on_every_key() -> None:
    keys = make_keys(3)
    others = [keys[:-1], (*keys[:-1], ViewKey(keys[-1].image_id, 7)), (*keys, ViewKey(10**12, 0))]
    assert len({keys_digest(some) for some in [keys, *others]}) == 4


@pytest.mark.contract
def test_a_key_list_of_another_length_or_a_shard_beyond_the_last_is_a_programming_error() -> None:
    plan = make_plan(make_keys(3))
    with pytest.raises(ValueError, match="4 keys for a plan of 6"):
        plan.keys_of(0, make_keys(2))
    with pytest.raises(ValueError, match="shard 2 of 2"):
        plan.views_of(2)


@pytest.mark.contract
def test_a_shard_of_64_mb_holds_as_many_views_as_fit() -> None:
    plan = make_plan(make_keys(2))
    axes = plan.axes.model_copy(update={"num_bins": 17, "num_classes": 80})
    size = views_per_shard(64e6, {"main": 76.0}, axes, plan.columns)
    assert size == round(64e6 / (76 * (2 + 2 + 136 + 160) + 8 + 4 + 24 + 1 + 8 + 8))
    assert views_per_shard(1.0, {"main": 76.0}, axes, plan.columns) == 1
    plan = make_plan(make_keys(2), cls_logits=None, held=EVERY)
    rows = {
        "main": 1.0,
        "vlr": 2.0,
        "imitation": 3.5,
        "score": 4.0,
        "score_class": 5.0,
        "cross": 2.0,
    }
    row_bytes = {"main": 44, "vlr": 44, "imitation": 10, "score": 42, "score_class": 6, "cross": 32}
    size = views_per_shard(1e6, rows, plan.axes, plan.columns)
    assert size == round(1e6 / (45 + 6 * 8 + sum(rows[name] * row_bytes[name] for name in rows)))


@pytest.mark.contract
def test_what_is_not_held_is_not_written_however_it_was_given() -> None:
    keys = make_keys(2)
    plan = make_plan(keys)
    nothing = {"vlr": None, "imitation": None, "score": None, "cross": None}
    other = Plan.of(
        sources=plan.sources,
        axes=Axes(**plan.axes.model_dump()),
        coverage=Coverage(main=plan.coverage.main, **nothing),
        columns=Columns(main=plan.columns.main, **nothing),
        build=plan.build,
        keys=keys,
    )
    assert other.to_bytes() == plan.to_bytes()
    assert b"vlr" not in plan.to_bytes()
    assert b"channels" not in plan.to_bytes()
    whole = make_plan(keys, held=EVERY)
    assert from_bytes(Plan, whole.to_bytes(), "here").to_bytes() == whole.to_bytes()


@pytest.mark.contract
def test_a_plan_that_contradicts_itself_is_refused() -> None:
    whole = make_plan(make_keys(2), held=EVERY).model_dump(exclude_unset=True)
    columns = {name: part for name, part in whole["columns"].items() if name != "vlr"}
    with pytest.raises(ValidationError, match="coverage and columns must name the same regions"):
        Plan(**{**whole, "columns": columns})
    axes = {name: part for name, part in whole["axes"].items() if name != "channels"}
    with pytest.raises(ValidationError, match=r"axes\.channels must be set"):
        Plan(**{**whole, "axes": axes})


@pytest.mark.contract
def test_a_source_refuses_what_is_no_fingerprint() -> None:
    with pytest.raises(ValidationError, match="pattern"):
        Source(fingerprint="4f0c", facts={})


@pytest.mark.contract
def test_the_axes_give_the_grid_of_their_locations() -> None:
    assert AXES.grid == Grid(strides=(8, 16), anchor_scale=8.0, bin_width=1.0)
