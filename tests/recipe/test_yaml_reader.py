from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldkit.recipe.nodes import Node, find, plain
from ldkit.recipe.yaml_reader import Reading, read_document, read_scalar, read_value


def tree(text: str) -> Node:
    reading = read_document(text, "a.yaml")
    assert not reading.problems
    assert reading.node is not None
    return reading.node


def complaint(reading: Reading) -> str:
    return " · ".join(f"{p.origin} {p.subject}: {p.text}" for p in reading.problems)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-2", 0.01), ("1E5", 1e5), (".5", 0.5), ("-3.", -3.0), ("+7", 7), ("010", 10),
        ("true", True), ("false", False), ("null", None), ("~", None), ("", None),
        ("yes", "yes"), ("on", "on"), ("True", "True"), ("NULL", "NULL"), ("1_000", "1_000"),
        ("0x10", "0x10"), ("12:30:45", "12:30:45"), ("2020-01-01", "2020-01-01"), ("r18", "r18"),
        ("1.2.3", "1.2.3"), (".inf", float("inf")), ("-.inf", float("-inf")), ("e5", "e5"),
    ],
)  # fmt: skip
def test_a_scalar_is_read_by_the_rules_of_yaml_1_2(text: str, value: object) -> None:
    read = read_scalar(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.contract
def test_a_very_long_number_is_a_float_and_not_an_endless_integer() -> None:
    assert read_scalar("9" * 5000) == float("inf")


@pytest.mark.law
@settings(deadline=None)
@given(st.integers(-(10**18) + 1, 10**18 - 1) | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_as_python_writes_it(number: float) -> None:
    assert read_scalar(repr(number)) == number


@pytest.mark.contract
def test_quotes_make_text() -> None:
    assert plain(tree("a: '1'\nb: \"true\"\nc: [null, '']")) == {
        "a": "1",
        "b": "true",
        "c": (None, ""),
    }
    assert not isinstance(plain(tree("a: 2020-01-01"))["a"], date)


@pytest.mark.contract
def test_every_value_knows_its_line() -> None:
    top = tree("# header\na:\n  b: 1\n  c:\n    - 5\n    - 6\n")
    lines = {
        path: str(node.origin)
        for path in [("a",), ("a", "b"), ("a", "c"), ("a", "c", 1)]
        if (node := find(top, path))
    }
    assert lines == {
        ("a",): "a.yaml:2",
        ("a", "b"): "a.yaml:3",
        ("a", "c"): "a.yaml:4",
        ("a", "c", 1): "a.yaml:6",
    }


@pytest.mark.contract
def test_a_repeated_key_is_refused_with_both_lines() -> None:
    reading = read_document("optim:\n  lr: 1\n  kind: sgd\n  lr: 2\n", "a.yaml")
    assert complaint(reading) == (
        "a.yaml:4 optim.lr: The key stands twice: first in line 2. Keep one."
    )


@pytest.mark.contract
@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: [1, 2\nb: 3\n", 2, "Expected ',' or ']', but got ':'"),
        ("a: 1\n b: 2\n", 2, "Mapping values are not allowed here"),
        ("a: 1\n\tb: 2\n", 2, "tab"),
        ("a: 'open\n", 2, "end of stream"),
        ("a: &x 1\nb: *x\n", 1, "Anchors (&) and aliases (*) are not read; write the value out."),
        ("a: *x\n", 1, "Anchors (&) and aliases (*) are not read"),
        ("a: !!python/object:os.system x\n", 1, "Tags such as tag:yaml.org,2002:python/object"),
        ("a: 1\n---\nb: 2\n", 2, "Expected a single document"),
        ("a: 1\nb: \x00\n", 2, "The character #x00 is not allowed."),
        ("a: 1\nb: \x07\n", 2, "The character #x07 is not allowed."),
    ],
)
def test_text_that_is_not_yaml_is_refused_with_its_line(text: str, line: int, words: str) -> None:
    reading = read_document(text, "a.yaml")
    assert reading.node is None
    assert complaint(reading).startswith(f"a.yaml:{line} not YAML: ")
    assert words.lower() in complaint(reading).lower()


@pytest.mark.contract
def test_endless_nesting_is_refused() -> None:
    assert "nested too deeply" in complaint(read_document("a: " + "[" * 5000, "a.yaml"))


@pytest.mark.contract
@pytest.mark.parametrize("text", ["", "# only words\n", "---\n", "null\n"])
def test_an_empty_document_is_refused_with_a_way_to_begin(text: str) -> None:
    reading = read_document(text, "a.yaml")
    assert reading.node is None
    assert complaint(reading).startswith("a.yaml:1 the document: Is empty.")
    assert "ldkit recipe show shapes/teacher" in complaint(reading)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("text", "found"), [("- a\n- b\n", "a list"), ("word\n", "a single value")]
)
def test_a_document_must_be_keys_and_values(text: str, found: str) -> None:
    assert complaint(read_document(text, "a.yaml")) == (
        f"a.yaml:1 the document: Must be keys and values, such as `name: my_run`, but is {found}."
    )


@pytest.mark.contract
def test_a_key_must_be_a_word() -> None:
    reading = read_document("a: 1\n? [x, y]\n: 2\n", "a.yaml")
    assert complaint(reading) == (
        "a.yaml:2 the document: Keys are words; this one is a list or a mapping."
    )


@pytest.mark.contract
def test_a_value_of_the_command_line_follows_the_same_rules_without_lines() -> None:
    node = read_value("{a: 1e-2, b: [yes]}", "--set").node
    assert node is not None
    assert plain(node) == {"a": 0.01, "b": ("yes",)}
    assert str(node.origin) == "--set"
    empty = read_value("", "--set").node
    assert empty is not None
    assert empty.value is None
    assert complaint(read_value("[1", "--set")).startswith("--set not YAML: ")
