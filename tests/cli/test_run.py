"""`ldkit run` at the shell: the table, JSON, a dry run, shipped names and paths."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ldkit.cli.app import app
from ldkit.data.shapes import write_shapes
from ldkit.errors import UsageError

SHORT = (
    *("--set", "schedule.max_steps=2", "--set", "student.backbone.width=8"),
    *("--set", "teacher.recipe=teacher.yaml", "--device", "cpu"),
)
TEACHER_FILE = "runs/shapes_teacher/model.pt"
TEACHER = "extends: shapes/teacher\nname: t\nschedule: {max_steps: 2}\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few drawn scenes where the shapes recipes look for them."""
    folder = tmp_path_factory.mktemp("run")
    shapes = folder / "quickstart" / "shapes"
    write_shapes(shapes, seed=0, train_images=8, val_images=2, size_px=64)
    (folder / "teacher.yaml").write_text(TEACHER)
    return folder


@pytest.fixture(autouse=True)
def _inside(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def ran(*arguments: str) -> Any:
    result = CliRunner().invoke(app, ["run", *arguments])
    if result.exception is not None:
        raise result.exception
    return result


@pytest.mark.contract
def test_a_dry_run_by_shipped_name_lists_the_stages(root: Path) -> None:
    before = sorted(root.rglob("*"))
    text = ran("shapes/ld", "--with-baseline", "--dry-run").stdout
    assert sorted(root.rglob("*")) == before
    assert [line.rstrip() for line in text.splitlines()] == [
        f"teacher                 to do, {TEACHER_FILE} (trained in runs/shapes_teacher)",
        "scores of the teacher   waiting, runs/shapes_ld_teacher/eval (for the model)",
        "cache                   waiting, caches/shapes (for the teacher)",
        "student                 waiting, runs/shapes_ld (for the teacher)",
        "scores of the student   waiting, runs/shapes_ld/eval (for the model)",
        "baseline                to do, runs/shapes_ld_baseline",
        "scores of the baseline  waiting, runs/shapes_ld_baseline/eval (for the model)",
    ]
    told = json.loads(ran("shapes/ld", "--dry-run", "--json").stdout)
    assert [stage["stage"] for stage in told] == [
        *("teacher", "scores of the teacher", "cache", "student", "scores of the student"),
    ]
    assert told[0] == {
        "stage": "teacher",
        "state": "to do",
        "output": TEACHER_FILE,
        "note": "trained in runs/shapes_teacher",
        "differs_from": None,
        "changes": [],
    }


@pytest.mark.story
def test_a_recipe_runs_to_its_table_and_the_second_time_only_shows_it(root: Path) -> None:
    (root / "mine.yaml").write_text(
        "extends: shapes/ld\nname: mine\nteacher: {checkpoint: t.pt}\ncache: {path: caches/t}\n"
    )
    command = ("mine.yaml", "--with-baseline", *SHORT)
    first = ran(*command)
    lines = first.stdout.splitlines()
    assert lines[0] == "mine on val, AP in percent"
    assert lines[1].split() == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"]
    assert [line.split("  ")[0] for line in lines[2:7]] == [
        *("teacher", "student", "baseline", "student - baseline", "student - teacher"),
    ]
    assert [line.split() for line in lines[8:11]] == [
        ["teacher", "t.pt"],
        ["student", "runs/mine/model.pt"],
        ["baseline", "runs/mine_baseline/model.pt"],
    ]
    assert lines[12].startswith("One pair is one seed: ")
    assert "cache: to do, caches/t\n" in first.stderr
    second = ran(*command)
    assert second.stdout == first.stdout
    assert "cache: finished, caches/t\n" in second.stderr
    told = json.loads(ran(*command, "--json").stdout)
    assert told["models"]["student"] == "runs/mine/model.pt"
    assert set(told["figures"]) == {"teacher", "student", "baseline"}
    assert {stage["state"] for stage in told["stages"]} == {"finished"}
    dry = ran(*command, "--set", "optim.lr=0.5", "--dry-run").stdout
    assert "since runs/mine differs:\n" in dry
    assert "  optim.lr  0.006 → 0.5\n" in dry


@pytest.mark.contract
def test_a_mistake_is_told_in_words() -> None:
    with pytest.raises(UsageError, match="three ways"):
        ran("shapes/ld", "--set", "teacher.recipe=null")
