from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldkit.recipe.load import dump_recipe, load_recipe, shipped_recipes
from ldkit.recipe.nodes import plain
from ldkit.recipe.yaml_reader import read_document
from ldkit.recipe.yaml_writer import document_lines, write_value
from tests.recipe.documents import write

TRICKY = ["yes", "1e-2", "null", "~", "", "- a", "a: b", "a #b", "x, y", "\x85", "é", "\U0001f600"]
texts = st.text(max_size=12) | st.sampled_from(TRICKY)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)


@pytest.mark.law
@settings(deadline=None)
@given(scalars | st.lists(scalars, max_size=3))
def test_a_written_value_reads_back_equal_and_stands_on_one_line(value: object) -> None:
    text = write_value(value)
    assert "\n" not in text
    for document in (f"key: {text}\n", f"key: [{text}]\n"):
        reading = read_document(document, "a.yaml")
        assert reading.node is not None
        expected = tuple(value) if isinstance(value, list) else value
        found = plain(reading.node)["key"]
        assert found == (expected if document.endswith(f" {text}\n") else (expected,))


@pytest.mark.contract
@pytest.mark.parametrize("name", shipped_recipes())
def test_a_dumped_recipe_loads_to_the_equal_recipe(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name).recipe
    again = load_recipe(write(tmp_path, "recipe.yaml", dump_recipe(recipe)))
    assert again.recipe == recipe
    assert dump_recipe(again.recipe) == dump_recipe(recipe)


@pytest.mark.law
@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    root=texts,
    lr=st.floats(1e-12, 1e6),
    sizes=st.tuples(st.integers(1, 900), st.integers(1, 900)),
)
def test_any_values_survive_the_way_through_a_file(
    root: str, lr: float, sizes: tuple[int, int], tmp_path: Path
) -> None:
    flags = {"data.root": ("--root", root)}
    overrides = [f"optim.lr={lr!r}", f"views.short_side_px=[{min(sizes)}, {max(sizes)}]"]
    recipe = load_recipe("coco/gfl_r18", overrides, flags).recipe
    assert recipe.data.root == root
    assert recipe.optim.lr == lr
    again = load_recipe(write(tmp_path, "recipe.yaml", dump_recipe(recipe)))
    assert again.recipe == recipe


@pytest.mark.contract
def test_lines_carry_the_key_of_their_value() -> None:
    lines = list(document_lines({"a": {"b": {"c": 1}, "d": [1, 2]}, "e": None}))
    assert [tuple(line) for line in lines] == [
        ("a:", ""),
        ("  b:", ""),
        ("    c: 1", "a.b.c"),
        ("  d: [1, 2]", "a.d"),
        ("e: null", "e"),
    ]
