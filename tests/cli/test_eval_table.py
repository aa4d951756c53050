"""`ldkit eval` as a user meets it: one table for several models, one file for the test server."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from ldkit.cli.app import app
from ldkit.errors import UsageError
from ldkit.jobs import train_teacher
from tests.jobs.tiny import SQUARE, draw_scenes, finish, teacher_recipe


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two finished runs of one step, and their images."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("eval")
    data = draw_scenes(root / "data", [SQUARE] * 3)
    for name in ("plain", "expected"):
        settings = ["schedule.max_steps=1", f"name={name}"]
        settings += ["expect={ap: 90, ap50: 95}"] if name == "expected" else []
        finish(train_teacher.run(teacher_recipe(data, *settings), root / name, device="cpu"))
    yield root
    torch.set_num_threads(threads)


def run(*words: Any) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, words), "--device", "cpu"])


@pytest.mark.story
def test_several_runs_give_one_table_with_differences_and_expectations(runs: Path) -> None:
    result = run(runs / "plain", runs / "expected", "--per-class", "--evaluator", "pycocotools")
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[0] == "AP in percent on val, 3 images, by pycocotools"
    assert lines[1].split() == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"]
    names = [line[:18].rstrip() for line in lines[2:6]]
    assert names == ["plain", "expected", "expected − plain", "expected − expected"[:18]]
    by_class = lines[lines.index("AP of each class") + 1 :][:4]
    assert [line.split()[0] for line in by_class] == ["plain", "bar", "disc", "frame"]
    assert f"Written to {runs / 'plain' / 'eval' / 'val.json'}." in result.stderr


@pytest.mark.contract
def test_one_model_is_one_object_for_machines_and_several_are_a_list(runs: Path) -> None:
    one = json.loads(run(runs / "plain", "--json").stdout)
    assert (one["name"], one["split"], one["from_expected"]) == ("plain", "val", None)
    assert one["model"] == str(runs / "plain" / "model.pt")
    two = json.loads(run(runs / "plain", runs / "expected", "--json").stdout)
    assert [each["name"] for each in two] == ["plain", "expected"]
    assert two[0] == one
    assert one["difference"] is None
    assert two[1]["difference"]["ap"] == two[1]["ap"] - one["ap"]
    assert set(two[1]["from_expected"]) == {"ap", "ap50"}


@pytest.mark.contract
def test_the_file_for_the_test_server_comes_with_its_size_and_time(runs: Path) -> None:
    test = "data.test_dev={images: val, annotations: annotations/instances_val.json}"
    words = (runs / "plain", "--split", "test-dev", "--set", test, "--set", "eval.score_floor=0")
    shown = run(*words).stdout
    facts = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert facts["file"].endswith("detections_test-dev2017_plain_results.zip")
    assert facts["images"] == "3"
    assert facts["size"].endswith("KB")
    assert facts["time"].endswith("images a second")
    told = json.loads(run(*words, "--json").stdout)
    assert told["size"]["bytes"] == Path(facts["file"]).stat().st_size
    assert told["detections"] == int(facts["detections"].replace(",", ""))
    assert told["time"]["seconds"] >= 0


@pytest.mark.contract
def test_a_model_is_refused_before_any_is_evaluated(runs: Path, tmp_path: Path) -> None:
    unfinished = shutil.copytree(runs / "plain", tmp_path / "unfinished")
    (unfinished / "model.pt").unlink()
    shutil.rmtree(runs / "plain" / "eval", ignore_errors=True)
    result = run(runs / "plain", unfinished)
    assert isinstance(result.exception, UsageError)
    assert "is not a finished run" in str(result.exception)
    assert not (runs / "plain" / "eval").exists()
