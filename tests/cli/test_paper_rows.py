"""Commands without a recipe: the teacher at hand decides the row of the paper's table."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from ldkit.cache.format import Plan, Source
from ldkit.cli.app import app
from ldkit.errors import CacheMismatch, UsageError
from ldkit.files import canonical_json
from ldkit.models.checkpoint_file import read_model
from ldkit.recipe.detector import Detector, SmallBackbone, TimmBackbone
from ldkit.recipe.load import load_recipe
from ldkit.recipe.table import SHORT_NAMES
from tests.cache.synthetic import SOURCES, build, make_keys, make_plan
from tests.jobs.tiny import draw_scenes

SIZES = ((64, 64), (64, 96))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def told(result: Result) -> str:
    """What a command said beside its result, as one line."""
    return " ".join(result.stderr.split())


def cache_of(backbone: TimmBackbone | SmallBackbone, folder: str = "caches/some") -> Path:
    """Write a sealed cache whose plan names a teacher with this backbone."""
    return cache_with(Detector(backbone=backbone).model_dump(mode="json"), folder)


def cache_with(detector: dict[str, Any], folder: str) -> Path:
    keys = make_keys(2)
    made = make_plan(keys)
    sources = SOURCES.model_copy(update={"model": Source.of({**detector, "classes": ["bar"]})})
    plan = Plan.of(sources, made.axes, made.coverage, made.columns, made.build, keys)
    build(Path(folder), plan, keys)
    return Path(folder)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("teacher", "student", "recipe"),
    [
        ("r101", "r50", "coco/ld_r50_r101"),
        ("r101dcn", "r18", "coco/ld_r18_r101dcn"),
        ("r101dcn", "r101", "coco/ld_r101_r101dcn"),
        ("r50", "", "coco/self_ld_r50"),
    ],
)
def test_distill_takes_the_row_of_the_cached_teacher(
    teacher: str, student: str, recipe: str
) -> None:
    cache_of(SHORT_NAMES[teacher])
    result = run("distill", *(["--student", student] if student else []), "--dry-run")
    assert told(result) == (
        "Taking the cache caches/some, the only sealed one. "
        f"Taking the recipe {recipe} for the teacher {teacher}."
    )
    assert result.exit_code != 0  # there are no images here


@pytest.mark.contract
def test_a_named_cache_decides_as_well_and_a_named_recipe_asks_none() -> None:
    cache_of(SHORT_NAMES["r101"], "caches/one")
    two = cache_of(SHORT_NAMES["r101dcn"], "caches/two")
    result = run("distill", "--cache", str(two), "--dry-run")
    assert told(result) == "Taking the recipe coco/ld_r18_r101dcn for the teacher r101dcn."
    result = run("distill", "coco/ld_r34_r101", "--cache", str(two), "--dry-run")
    assert told(result) == ""


@pytest.mark.contract
def test_distill_from_a_teacher_outside_the_table_stops_with_the_table() -> None:
    cache_of(SmallBackbone(name="small"))
    error = run("distill", "--student", "r18").exception
    assert isinstance(error, UsageError)
    assert str(error).startswith(
        "ldkit distill: no recipe of the paper's table distills small into r18.\n"
        "Name the recipe that the teacher rows were made for. The table:\n"
        "  coco/ld_r18_r101      r101 → r18\n"
    )


@pytest.mark.contract
def test_a_teacher_that_this_version_does_not_know_is_told() -> None:
    cache_with({"backbone": {"name": "resnet101", "from": "later"}}, "caches/later")
    error = run("distill", "--cache", "caches/later").exception
    assert isinstance(error, CacheMismatch)
    assert str(error) == (
        "caches/later: was made with a detector that this version of ldkit does not know.\n"
        "Name the recipe it was made for, or build a new cache."
    )


@pytest.mark.contract
@pytest.mark.parametrize("words", [("teacher", "train"), ("distill",)])
def test_help_lists_the_short_names(words: tuple[str, ...]) -> None:
    shown = " ".join(run(*words, "--help").stdout.replace("│", " ").split())
    assert f"{', '.join(SHORT_NAMES)}, or any timm backbone." in shown


def tiny(section: str) -> list[str]:
    """The paper's recipes on two drawn images, one step each."""
    values = {
        "data.root": "data",
        "data.train": "{images: train, annotations: annotations/instances_train.json}",
        "data.val": "{images: val, annotations: annotations/instances_val.json}",
        "data.test_dev": "null",
        "data.workers": "0",
        "views.short_side_px": "64" if section == "student" else "[48, 64]",
        "views.long_side_max_px": "96",
        "train.batch_size": "2",
        "schedule.max_steps": "1",
        "eval.every_epochs": "null",
        f"{section}.backbone.pretrained": "false",
    }
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


@pytest.mark.story
def test_the_product_s_commands_lead_from_r101dcn_to_r18() -> None:
    draw_scenes(Path("data"), SIZES, SIZES[:1])
    result = run("teacher", "train", "--arch", "r101dcn", *tiny("model"), "--json")
    assert result.exit_code == 0, result.stderr
    teacher = read_model(Path("r101dcn.pt"))
    assert teacher.detector["backbone"]["deform"] == {"stages": [2, 3, 4], "version": 1}
    assert teacher.weights["backbone.layer3.5.conv2.conv_offset.weight"].shape == (18, 256, 3, 3)

    result = run("cache-logits", "--teacher", "r101dcn.pt", *tiny("student"))
    assert result.exit_code == 0, result.stderr
    assert "Taking the recipe coco/ld_r18_r101dcn, for the teacher r101dcn." in told(result)

    result = run("distill", "--student", "r18", *tiny("student"), "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {
        "run": "runs/ld_r18_r101dcn",
        "model": "runs/ld_r18_r101dcn/model.pt",
    }
    student = read_model(Path("runs/ld_r18_r101dcn/model.pt"))
    assert student.origin["teacher"] == teacher.fingerprint
    recipe = load_recipe("runs/ld_r18_r101dcn/recipe.yaml").document
    assert canonical_json(student.detector) == canonical_json(recipe["student"])

    # The same teacher, the same views: another student of it has no row, and takes R-18's.
    result = run("distill", "--student", "r34", "--dry-run", *tiny("student"), "--json")
    assert json.loads(result.stdout)["run"] == "runs/ld_r34_r101dcn"
