"""Facts: one text for people, one value for machines."""

import json

import pytest

from ldkit.jobs.facts import (
    Fact,
    aligned,
    as_json,
    number,
    plural,
    seconds,
    share,
    size,
    table,
)


@pytest.mark.contract
def test_machines_get_values_under_names_without_spaces() -> None:
    facts = {"written by": "ldkit 1", "rows": number(117_266), "views": share(3, 4)}
    assert as_json(facts) == {
        "written_by": "ldkit 1",
        "rows": 117_266,
        "views": {"count": 3, "of": 4},
    }
    assert facts["rows"] == Fact("117,266", 117_266)
    assert json.loads(json.dumps(as_json(facts))) == as_json(facts)


@pytest.mark.contract
def test_sizes_are_three_digits_and_a_unit() -> None:
    sizes = {0: "0 B", 999: "999 B", 1000: "1.0 KB", 23_256: "23.3 KB", 8.9e6: "8.9 MB"}
    sizes |= {5.36e9: "5.36 GB", 2e13: "20000.00 GB"}
    assert {count: size(count) for count in sizes} == sizes


@pytest.mark.contract
def test_a_count_has_its_noun() -> None:
    assert [plural(count, "shard") for count in (0, 1, 1459)] == [
        "0 shards",
        "1 shard",
        "1,459 shards",
    ]


@pytest.mark.contract
def test_columns_of_names_and_values_are_aligned() -> None:
    assert aligned({"circle": "7", "arrow": "1,204"}) == "circle      7\narrow   1,204"
    assert aligned({}) == ""


@pytest.mark.contract
def test_times_have_a_unit_that_fits() -> None:
    times = {0: "0 ms", 0.042: "42 ms", 1.44: "1.4 s", 60: "1.0 min", 750: "12.5 min"}
    times |= {3600: "1.0 h", 360_000: "100.0 h"}
    assert {count: seconds(count) for count in times} == times


@pytest.mark.contract
def test_tables_have_numbers_to_the_right_and_texts_to_the_left() -> None:
    lines = [["", "rows", "size"], ["main", "7", "9.1 KB"], ["vlr", "1,204", "12 B"]]
    assert table(lines).splitlines() == [
        "       rows    size",
        "main      7  9.1 KB",
        "vlr   1,204    12 B",
    ]
    assert table([["a", "b c"], ["long", "d"]], texts=(0, 1)) == "a     b c\nlong  d"
