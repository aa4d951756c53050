"""Means, differences and errors, by hand."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ldkit.jobs.evaluate import FIGURES
from ldkit.jobs.quickstart_table import outcome
from tests.jobs.conftest import World


def written(folder: Path, values: Sequence[float | None]) -> Path:
    scores = dict(zip(FIGURES, values, strict=True))
    (folder / "eval").mkdir(parents=True)
    (folder / "eval" / "val.json").write_text(json.dumps(scores))
    return folder


@pytest.mark.contract
def test_differences_are_taken_pair_by_pair(world: World, tmp_path: Path) -> None:
    runs = {
        "teacher": [written(tmp_path / "t", [0.40, *[0.5] * 5, None])],
        "student": [
            written(tmp_path / "p0", [0.10, *[0.5] * 5, None]),
            written(tmp_path / "p1", [0.30, *[0.5] * 5, None]),
        ],
        "student + LD": [
            written(tmp_path / "d0", [0.12, *[0.5] * 5, None]),
            written(tmp_path / "d1", [0.32, *[0.5] * 5, 0.5]),
        ],
    }
    result = outcome(world.cache, runs, 12.3, "here")
    cells = {row[0]: (" ".join(row[1].split()), row[-1]) for row in result.rows}
    assert cells["teacher"] == ("40.0", "-")
    assert cells["student"] == ("20.0 ±10.0", "-")
    assert cells["difference"] == ("+2.0 ±0.0", "-")
    assert result.figures["student"][1]["ap"] == 0.30


@pytest.mark.contract
def test_one_seed_has_no_error_and_says_so(world: World, tmp_path: Path) -> None:
    runs = {
        name: [written(tmp_path / name, [value] * 7)]
        for name, value in (("teacher", 0.4), ("student", 0.2), ("student + LD", 0.15))
    }
    result = outcome(world.cache, runs, 12.3, "here")
    assert [row[1] for row in result.rows] == ["40.0", "20.0", "15.0", "-5.0"]
    assert result.title == "Drawn shapes, AP in percent (seed 0)"
    assert result.caveat.startswith("One seed is one seed")
