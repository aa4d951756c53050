import json
import math
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldkit.errors import DataError, StorageError, UsageError
from ldkit.metrics.results import CocoResult
from ldkit.metrics.submission import write_submission

IMAGES = {7: (100, 200), 9: (50, 60)}
CATEGORIES = (1, 3, 90)


def result(
    image_id: int = 7,
    category_id: int = 3,
    bbox: tuple[float, ...] = (10.0, 20.0, 30.5, 40.25),
    score: float = 0.5,
) -> CocoResult:
    return CocoResult(image_id=image_id, category_id=category_id, bbox=list(bbox), score=score)


@pytest.mark.contract
def test_a_submission_is_one_rightly_named_json_in_a_flat_zip(tmp_path: Path) -> None:
    results = [result(), result(image_id=9, category_id=90, bbox=(0.0, 0.0, 60.0, 50.0), score=1.0)]
    written = write_submission(tmp_path / "eval", "ld_r18-v1.0", results, IMAGES, CATEGORIES)
    stem = "detections_test-dev2017_ld_r18-v1.0_results"
    assert written.path == tmp_path / "eval" / f"{stem}.zip"
    assert [path.name for path in written.path.parent.iterdir()] == [f"{stem}.zip"]
    assert (written.count, written.bytes) == (2, written.path.stat().st_size)
    with zipfile.ZipFile(written.path) as archive:
        assert archive.namelist() == [f"{stem}.json"]
        assert archive.testzip() is None
        assert json.loads(archive.read(f"{stem}.json")) == results
        assert archive.infolist()[0].compress_type == zipfile.ZIP_DEFLATED


@pytest.mark.law
def test_equal_results_give_equal_bytes_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_submission(tmp_path / "a", "x", [result()], IMAGES, CATEGORIES)
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    second = write_submission(tmp_path / "b", "x", [result()], IMAGES, CATEGORIES)
    assert first.path.read_bytes() == second.path.read_bytes()


@pytest.mark.contract
def test_a_submission_without_results_is_an_empty_list(tmp_path: Path) -> None:
    written = write_submission(tmp_path, "x", [], IMAGES, CATEGORIES)
    with zipfile.ZipFile(written.path) as archive:
        assert json.loads(archive.read(archive.namelist()[0])) == []


@pytest.mark.contract
def test_all_kinds_of_problems_are_told_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    older = write_submission(tmp_path, "x", [result()], IMAGES, CATEGORIES).path.read_bytes()
    results = [
        result(image_id=8),
        result(image_id=8),
        result(category_id=2),
        result(score=0.0),
        result(score=1.5),
        result(score=math.nan),
        result(bbox=(0.0, 0.0, math.inf, 1.0)),
        result(bbox=(0.0, 0.0, 1.0)),
        result(bbox=(5.0, 5.0, 0.0, 9.0)),
        result(bbox=(5.0, 5.0, 9.0, -1.0)),
        result(image_id=9, bbox=(0.0, 0.0, 61.0, 50.0)),
        *[result(image_id=9, bbox=(0.0, 0.0, 9.0, 9.0))] * 100,
    ]
    with pytest.raises(DataError) as caught:
        write_submission(tmp_path, "x", results, IMAGES, CATEGORIES)
    assert str(caught.value) == (
        "results: would be refused by the server or scored as mistakes:\n"
        "  image not in the list: 2 (result 0: image_id = 8)\n"
        "  unknown category: 1 (result 2: category_id = 2)\n"
        "  score outside (0, 1]: 3 (result 3: score = 0.0)\n"
        "  not four finite box numbers: 2 "
        "(result 6: image_id = 7, bbox = [0.0, 0.0, inf, 1.0])\n"
        "  no width or height: 2 (result 8: image_id = 7, bbox = [5.0, 5.0, 0.0, 9.0])\n"
        "  outside its image: 1 (result 10: image_id = 9, bbox = [0.0, 0.0, 61.0, 50.0], "
        "image (height, width) = (50, 60))\n"
        "  more than 100 results in an image: 1 (image 9: 101)\n"
        "Nothing was written. The first of each kind is shown. Evaluate again on the images of the "
        "test-dev list."
    )
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == older


@pytest.mark.law
@settings(deadline=None, max_examples=30)
@given(
    left=st.floats(-20, 220),
    top=st.floats(-20, 120),
    width=st.floats(1, 50),
    height=st.floats(1, 50),
)
def test_a_box_is_taken_exactly_when_it_lies_inside_its_image(
    tmp_path_factory: pytest.TempPathFactory, left: float, top: float, width: float, height: float
) -> None:
    folder = tmp_path_factory.mktemp("box")
    excess = max(-left, -top, left + width - 200, top + height - 100)
    box = result(bbox=(left, top, width, height))
    if excess <= 0:
        write_submission(folder, "x", [box], IMAGES, CATEGORIES)
    elif excess > 0.11:
        with pytest.raises(DataError, match="outside its image"):
            write_submission(folder, "x", [box], IMAGES, CATEGORIES)


@pytest.mark.contract
def test_boxes_may_exceed_their_image_by_a_rounding_error(tmp_path: Path) -> None:
    box = result(bbox=(-1e-3, 0.0, 200.01, 100.001))
    assert write_submission(tmp_path, "x", [box], IMAGES, CATEGORIES).count == 1


@pytest.mark.contract
@pytest.mark.parametrize("name", ["", ".", "_x", "../x", "a/b", "a b", "ü", "x" * 101, "a\n"])
def test_a_name_that_does_not_suit_a_server_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is not a name for a submission") as caught:
        write_submission(tmp_path, name, [result()], IMAGES, CATEGORIES)
    assert "--set name=ld_r18_r101" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.contract
def test_a_file_in_place_of_the_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "eval").write_text("in the way")
    with pytest.raises(StorageError, match="could not be written"):
        write_submission(tmp_path / "eval", "x", [result()], IMAGES, CATEGORIES)
