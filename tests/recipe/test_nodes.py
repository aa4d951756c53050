import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldkit.recipe.nodes import Node, Origin, Scalar, find, merge, nearest_origin, plain, written

FILE = Origin("a.yaml", 1)
keys = st.sampled_from(["a", "b", "c"])
scalars: st.SearchStrategy[Scalar] = st.none() | st.integers(0, 3) | st.sampled_from(["x", "y"])


def node(value: object, origin: Origin = FILE) -> Node:
    if isinstance(value, dict):
        return Node({key: node(entry, origin) for key, entry in value.items()}, origin)
    if isinstance(value, list):
        return Node(tuple(node(item, origin) for item in value), origin)
    assert value is None or isinstance(value, str | int | float)
    return Node(value, origin)


documents = st.dictionaries(
    keys,
    st.recursive(
        scalars | st.lists(st.integers(0, 3), max_size=2),
        lambda inner: st.dictionaries(keys, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
).map(node)


@pytest.mark.law
@settings(deadline=None)
@given(documents)
def test_plain_values_that_are_written_read_back(document: Node) -> None:
    assert written(plain(document), FILE) == document
    assert written({"a": [1, (2,)]}, FILE) == written({"a": (1, (2,))}, FILE)


@pytest.mark.law
@settings(deadline=None)
@given(documents)
def test_merging_a_document_with_itself_or_with_nothing_changes_nothing(document: Node) -> None:
    assert merge(document, document) == document
    assert plain(merge(document, node({}))) == plain(document)
    assert plain(merge(node({}), document)) == plain(document)


@pytest.mark.law
@settings(deadline=None)
@given(documents, documents)
def test_what_the_upper_document_says_is_found_in_the_merged_one(lower: Node, upper: Node) -> None:
    def check(said: Node, found: Node | None) -> None:
        assert found is not None
        if isinstance(said.value, dict):
            for key, entry in said.value.items():
                check(entry, find(found, (key,)))
        else:
            assert plain(found) == plain(said)

    check(upper, merge(lower, upper))


@pytest.mark.law
@settings(deadline=None)
@given(documents, documents, documents)
def test_mappings_merge_in_any_grouping(low: Node, middle: Node, top: Node) -> None:
    def has_only_sections_or_leaves(one: Node, other: Node) -> bool:
        """Say whether no section of one side meets a leaf of the other."""
        if one.is_leaf or other.is_leaf:
            return one.is_leaf == other.is_leaf
        assert isinstance(one.value, dict)
        assert isinstance(other.value, dict)
        shared = one.value.keys() & other.value.keys()
        return all(has_only_sections_or_leaves(one.value[k], other.value[k]) for k in shared)

    if has_only_sections_or_leaves(low, middle) and has_only_sections_or_leaves(middle, top):
        left = merge(merge(low, middle), top)
        assert plain(left) == plain(merge(low, merge(middle, top)))


@pytest.mark.contract
def test_lists_scalars_and_null_replace() -> None:
    lower = node({"list": [1, 2, 3], "section": {"a": 1}, "number": 1})
    upper = node({"list": [9], "section": None, "number": "x"})
    assert plain(merge(lower, upper)) == {"list": (9,), "section": None, "number": "x"}


@pytest.mark.contract
def test_a_section_takes_the_place_of_null() -> None:
    merged = merge(node({"main": None}), node({"main": {"weight": 1}}))
    assert plain(merged) == {"main": {"weight": 1}}


@pytest.mark.contract
def test_a_section_that_changes_its_kind_replaces() -> None:
    lower = node({"optim": {"kind": "sgd", "lr": 1, "momentum": 0.9}})
    same = merge(lower, node({"optim": {"kind": "sgd", "lr": 2}}))
    other = merge(lower, node({"optim": {"kind": "adamw", "lr": 2}}))
    assert plain(same) == {"optim": {"kind": "sgd", "lr": 2, "momentum": 0.9}}
    assert plain(other) == {"optim": {"kind": "adamw", "lr": 2}}


@pytest.mark.contract
def test_a_backbone_that_turns_small_replaces_and_another_timm_name_merges() -> None:
    lower = node({"backbone": {"name": "resnet18", "pretrained": False}})
    timm = merge(lower, node({"backbone": {"name": "resnet34"}}))
    small = merge(lower, node({"backbone": {"name": "small"}}))
    assert plain(timm) == {"backbone": {"name": "resnet34", "pretrained": False}}
    assert plain(small) == {"backbone": {"name": "small"}}


@pytest.mark.contract
def test_the_origin_is_that_of_the_nearest_written_node() -> None:
    document = Node({"a": Node({"b": Node(1, Origin("f", 3))}, Origin("f", 2))}, Origin("f", 1))
    assert nearest_origin(document, ("a", "b")) == Origin("f", 3)
    assert nearest_origin(document, ("a", "missing", "c")) == Origin("f", 2)
    assert nearest_origin(document, ("missing",)) == Origin("f", 1)


@pytest.mark.contract
def test_a_flag_does_not_move_the_section_it_changes() -> None:
    lower = Node({"a": node({"b": 1}, Origin("f", 2))}, Origin("f", 1))
    merged = merge(lower, node({"a": {"c": 2}}, Origin("--set")))
    assert nearest_origin(merged, ("a",)) == Origin("f", 2)
    assert nearest_origin(merged, ("a", "c")) == Origin("--set")
