import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ldkit.metrics.ambiguity import (
    SOFT_KINDS,
    ambiguity_figures,
    auc,
    auc_within,
    mean_ranks,
    size_classes,
    spearman,
)

# few distinct values, so that ties are the rule
values = arrays(np.float64, st.integers(1, 12), elements=st.integers(-3, 3).map(float))


def columns(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float64)


@pytest.mark.law
def test_equal_values_share_the_mean_of_their_ranks() -> None:
    assert mean_ranks(columns(3, 1, 3, 0, 3)).tolist() == [4, 2, 4, 1, 4]


@pytest.mark.law
@given(values, values)
def test_auc_counts_pairs_and_half_of_ties(positive: np.ndarray, negative: np.ndarray) -> None:
    above = positive[:, None] > negative
    equal = positive[:, None] == negative
    assert auc(positive, negative) == pytest.approx((above + 0.5 * equal).mean(), abs=1e-12)


@pytest.mark.law
@given(values, values)
def test_auc_of_exchanged_groups_adds_up_to_one(first: np.ndarray, second: np.ndarray) -> None:
    there, back = auc(first, second), auc(second, first)
    assert there is not None
    assert back == pytest.approx(1 - there, abs=1e-12)


@pytest.mark.law
def test_auc_reaches_from_all_below_to_all_above() -> None:
    low, high = columns(1, 2, 2), columns(3, 5)
    assert (auc(high, low), auc(low, high), auc(low, low)) == (1.0, 0.0, 0.5)


@pytest.mark.law
def test_an_empty_group_has_no_auc() -> None:
    assert auc(columns(), columns(1)) is None
    assert auc(columns(1), columns()) is None


@pytest.mark.law
def test_auc_within_groups_does_not_see_what_sets_groups_apart() -> None:
    # the positives are in the high group; within it they are no higher than the negatives
    values = columns(0, 1, 10, 11, 10, 11, 12)
    is_positive = np.array([False, False, False, False, True, True, False])
    group = np.array([0, 0, 1, 1, 1, 1, 2])
    assert auc(values[is_positive], values[~is_positive]) == pytest.approx(6 / 10)
    assert auc_within(values, is_positive, ~is_positive, group) == 0.5


@pytest.mark.law
def test_groups_count_by_their_positives() -> None:
    values = columns(0, 1, 1, 1, 5, 4)
    is_positive = np.array([False, True, True, True, False, True])
    group = np.array([0, 0, 0, 0, 1, 1])
    assert auc_within(values, is_positive, ~is_positive, group) == pytest.approx(3 / 4)
    assert auc_within(values, is_positive, ~is_positive, np.arange(6)) is None


@pytest.mark.law
def test_size_classes_are_tenths_from_small_to_large() -> None:
    side = np.random.default_rng(0).permutation(100).astype(np.float64)
    assert size_classes(side).tolist() == (side // 10).astype(int).tolist()
    assert size_classes(columns()).tolist() == []


@pytest.mark.contract
def test_figures_of_the_same_size_compare_objects_of_the_same_size() -> None:
    # larger objects have more entropy, and only large ones are faded: that says nothing of fading
    side = np.repeat(columns(*range(10, 20)), 20)
    kind = np.full(200, "sharp", dtype="<U8")
    kind[150::2] = "faded"
    found = ambiguity_figures(side / 10, (kind == "faded").astype(np.float64), kind, side)
    assert found.faded.auc is not None
    assert found.faded.auc > 0.8
    assert found.faded.auc_same_size == 0.5


@pytest.mark.law
@given(values)
def test_spearman_sees_order_alone(x: np.ndarray) -> None:
    if len(set(x.tolist())) == 1:
        assert spearman(x, x) is None
    else:
        assert spearman(x, np.exp(x)) == pytest.approx(1)
        assert spearman(x, -(x**3)) == pytest.approx(-1)


@pytest.mark.golden
def test_spearman_with_ties_equals_a_worked_example() -> None:
    # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: 4.5 / sqrt(4.5 * 5)
    assert spearman(columns(1, 2, 2, 9), columns(0, 7, 5, 8)) == pytest.approx(0.9486832980505138)


@pytest.mark.law
def test_nothing_correlates_with_a_constant_or_with_nothing() -> None:
    assert spearman(columns(1, 2, 3), columns(4, 4, 4)) is None
    assert spearman(columns(), columns()) is None


@pytest.mark.contract
def test_each_kind_is_compared_with_the_sharp_edges() -> None:
    kind = np.array(["sharp", "sharp", "faded", "faded", "occluded", "sharp"])
    softness = columns(0, 0, 0.9, 0.4, 0.7, 0)
    entropy = columns(0.5, 1.5, 2.0, 1.0, 0.1, 1.0)
    side = columns(20, 20, 20, 20, 20, 20)
    found = ambiguity_figures(entropy, softness, kind, side)
    assert (found.sharp_edges, found.sharp_entropy) == (3, 1.0)
    assert found.faded.edges == 2
    assert found.faded.entropy == 1.5
    assert found.faded.auc == pytest.approx(4.5 / 6)
    assert found.faded.spearman == pytest.approx(1)
    assert found.blurred == (0, None, None, None, None)
    assert found.occluded == (1, pytest.approx(0.1), 0.0, 0.0, None)
    assert found.soft.edges == 3
    assert found.soft.auc == pytest.approx(4.5 / 9)
    assert found.spearman == spearman(entropy, softness)


@pytest.mark.contract
def test_an_unknown_kind_is_refused() -> None:
    kind = np.array([*SOFT_KINDS, "torn"])
    with pytest.raises(ValueError, match="there is no kind 'torn' of edge"):
        ambiguity_figures(columns(1, 2, 3, 4), columns(1, 1, 1, 1), kind, columns(9, 9, 9, 9))
