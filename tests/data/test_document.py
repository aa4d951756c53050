"""A file that is no COCO file says so, with the place and the way out."""

import gc
from pathlib import Path

import numpy as np
import pytest

from ldkit.data.document import Problem, collector_paused, found, read_document, refuse, section
from ldkit.errors import DataError


def message(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_document(path)
    assert caught.value.where == str(path)
    assert caught.value.hint
    return caught.value.message


@pytest.mark.contract
def test_broken_json_is_reported_with_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text('{"images": [],\n "annotations": [1 2]}')
    assert message(path).startswith("is not valid JSON: line 2, column 20: Expecting ','")


@pytest.mark.contract
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty."),
        (b" \n\t", "is empty."),
        (b"[]", "holds a list where an object {...} is expected."),
        (b"null", "holds null where an object {...} is expected."),
        (b'"images"', "holds a text where an object {...} is expected."),
        (b"7", "holds a number where an object {...} is expected."),
        (b"\xff\xd8\xff\xe0 picture", "is not valid JSON"),
        (b'{"images": [', "is not valid JSON: line 1, column 13"),
        (b"[" * 200_000, "is not valid JSON"),
    ],
)
def test_what_is_no_object_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    assert message(path).startswith(expected)


@pytest.mark.contract
def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert message(tmp_path / "none.json") == "does not exist."
    assert message(tmp_path) == "is a folder, but a COCO JSON file is expected."


@pytest.mark.contract
def test_sections_that_are_no_lists_of_objects_are_problems() -> None:
    problems: list[Problem] = []
    document = {"images": {}, "categories": [], "annotations": [{"id": 1}, 5, None]}
    for name in ("info", "images", "categories"):
        assert section(document, name, problems) == []
    assert section(document, "annotations", problems) == [{"id": 1}]
    assert [problem.cases for problem in problems] == [
        ("the section `info` is missing.",),
        ("`images` is an object, not a list.",),
        ("`categories` has no entries.",),
        ("annotations[1] is a number, not an object.", "annotations[2] is null, not an object."),
    ]


@pytest.mark.contract
def test_all_problems_are_told_in_one_error() -> None:
    many = found(np.ones(500, bool), lambda row: f"box {row} is bad", "Drop them.")
    few = found(np.array([False, True, False]), lambda row: f"image {row} is bad")
    assert found(np.zeros(3, bool), lambda row: f"{row}") == []
    with pytest.raises(DataError) as caught:
        refuse(Path("a.json"), many + few)
    boxes = [f"  box {row} is bad" for row in range(5)]
    rest = [
        "  and 495 more of this kind",
        "  image 1 is bad",
        "",
        "Nothing was started. Drop them.",
    ]
    assert str(caught.value) == "\n".join(["a.json: 501 problems", "", *boxes, *rest])
    refuse(Path("a.json"), [])


@pytest.mark.contract
def test_the_garbage_collector_comes_back_after_an_error() -> None:
    was_paused = []

    @collector_paused()
    def fail() -> None:
        was_paused.append(not gc.isenabled())
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert was_paused == [True]
    assert gc.isenabled()
