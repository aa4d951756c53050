"""Means over seeds and paired differences to the plain student, by hand."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from ldkit.jobs.ablate_table import ONE_SEED, Runs, outcome


def written(folder: Path, **figures: float | None) -> Path:
    path = folder / "eval" / "val.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"split": "val", "images": 3, **figures}))
    return path


def runs(root: Path, arms: Mapping[str, list[dict[str, float | None]]]) -> list[Runs]:
    found = []
    for arm, figures in arms.items():
        folders = [root / f"{arm}{seed}" for seed in range(len(figures))]
        scores = [written(folder, **own) for folder, own in zip(folders, figures, strict=True)]
        found.append(Runs(arm, folders, scores))
    return found


@pytest.mark.contract
def test_differences_are_taken_seed_by_seed(tmp_path: Path) -> None:
    rest = {"ap50": 0.5, "ap75": 0.5, "ap_small": None, "ap_medium": 0.5, "ap_large": 0.5}
    plain = [{"ap": value, **rest, "ar100": 0.5} for value in (0.10, 0.30)]
    main = [{"ap": 0.12, **rest, "ar100": 0.5}, {"ap": 0.33, **rest, "ar100": None}]
    result = outcome("mine", runs(tmp_path, {"plain": plain, "main": main}), [4, 5])
    assert result.rows[0][:3] == ["plain", "20.0\n±10.0", "50.0\n±0.0"]
    assert result.rows[1][1] == "22.5\n±10.5"
    assert result.gaps == [
        ["main", "+2.5\n±0.5", *["0.0\n±0.0"] * 2, "-", *["0.0\n±0.0"] * 2, "0.0"]
    ]
    assert result.title == "mine on val, AP in percent (2 seeds)"
    arm = result.document["arms"][1]
    assert arm["mean"]["ap"] == pytest.approx(0.225)
    assert arm["standard_error"]["ar100"] is None
    assert arm["difference"]["mean"]["ap"] == pytest.approx(0.025)
    assert arm["difference"]["standard_error"]["ap"] == pytest.approx(0.005)
    assert arm["difference"]["mean"]["ap_small"] is None
    assert result.document["arms"][0]["difference"] is None
    json.dumps(result.document, allow_nan=False)


@pytest.mark.contract
def test_one_seed_has_no_errors_and_says_so(tmp_path: Path) -> None:
    figures = {"ap": 0.4, "ap50": 0.6, "ap75": 0.4}
    found = runs(tmp_path, {"plain": [figures], "all": [{**figures, "ap": 0.35}]})
    result = outcome("mine", found, [7])
    assert result.columns == ("AP", "AP50", "AP75")  # what Pascal VOC has
    assert result.rows == [["plain", "40.0", "60.0", "40.0"], ["all", "35.0", "60.0", "40.0"]]
    assert result.gaps == [["all", "-5.0", "0.0", "0.0"]]
    assert result.title.endswith("(seed 7)")
    assert result.caveat == ONE_SEED


@pytest.mark.contract
def test_the_plain_student_alone_has_no_differences(tmp_path: Path) -> None:
    result = outcome("mine", runs(tmp_path, {"plain": [{"ap": 0.5}]}), [0])
    assert (result.rows, result.gaps) == ([["plain", "50.0"]], [])
