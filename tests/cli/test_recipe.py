import json
import re
import shlex
from itertools import pairwise, takewhile
from pathlib import Path

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from ldkit.cli.app import app as root
from ldkit.cli.recipe import app
from ldkit.errors import RecipeError
from ldkit.recipe.load import load_recipe, shipped_recipes
from ldkit.recipe.shipped import recipes_folder
from tests.recipe.documents import ALONE, write

FILES = sorted(recipes_folder().rglob("*.yaml"))
ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None:
        raise result.exception
    return result.stdout


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.contract
def test_list_names_every_shipped_recipe_with_its_title() -> None:
    lines = run("list").splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_recipes())
    title = "GFL R-18 on COCO, 12 epochs, no teacher: the baseline of coco/ld_r18_r101"
    assert [line.split()[0] for line in lines if line.endswith(f"  {title}")] == ["coco/gfl_r18"]
    rows = json.loads(run("list", "--json"))
    assert [row["name"] for row in rows] == list(shipped_recipes())
    assert all(row["title"] and Path(row["path"]).is_file() for row in rows)


@pytest.mark.contract
def test_what_show_prints_is_a_recipe_with_an_origin_on_each_value(tmp_path: Path) -> None:
    text = run("show", "coco/ld_r18_r101", "--set", "optim.lr=1e-2")
    loaded = load_recipe("coco/ld_r18_r101", ["optim.lr=1e-2"])
    assert load_recipe(write(tmp_path, "shown.yaml", text)).recipe == loaded.recipe
    lines = text.splitlines()
    values = [line for line in lines if not line.endswith(":")][1:]
    assert len({line.index("  # ") for line in values}) == 1
    assert [line.partition("  # ")[2] for line in values] == [
        origin.rpartition("/")[2] for origin in loaded.origins.values()
    ]
    assert re.search(r"^  lr: 0\.01 +# --set$", text, re.MULTILINE)
    assert re.search(r"^  clip_norm: null +# base_1x\.yaml:\d+$", text, re.MULTILINE)
    assert re.search(r"^  bad_boxes: refuse +# default$", text, re.MULTILINE)


@pytest.mark.contract
def test_show_speaks_json() -> None:
    shown = json.loads(run("show", "shapes/ld", "--json"))
    loaded = load_recipe("shapes/ld")
    assert shown["source"] == "recipes/shapes/ld.yaml"
    assert shown["recipe"] == loaded.document
    assert shown["origins"] == loaded.origins


@pytest.mark.contract
def test_check_tells_of_each_recipe_and_fails_where_one_is_wrong(tmp_path: Path) -> None:
    good = write(tmp_path, "good.yaml", ALONE)
    bad = write(tmp_path, "bad.yaml", ALONE.replace("lr:", "learning_rate:"))
    told = run("check", good, "coco/gfl_r18")
    assert told == f"{good}: valid\nrecipes/coco/gfl_r18.yaml: valid\n"
    result = CliRunner().invoke(app, ["check", good, bad, "coco/nothing"])
    assert result.exit_code == RecipeError.exit_code == 2
    assert result.stdout.startswith(f"{good}: valid\n{bad}: 2 problems\n\n  line 4    optim.lr\n")
    assert "coco/nothing: there is no such recipe." in result.stdout
    told = json.loads(CliRunner().invoke(app, ["check", bad, "coco/nothing", "--json"]).stdout)
    assert [each["valid"] for each in told] == [False, False]
    assert told[0]["problems"][0] == {
        "where": "line 4",
        "subject": "optim.lr",
        "text": "Required, but missing.",
    }
    assert told[1]["problems"][0]["text"] == "there is no such recipe."


@pytest.mark.contract
def test_check_takes_overrides() -> None:
    result = CliRunner().invoke(app, ["check", "coco/gfl_r18", "--set", "seed=x"])
    assert result.exit_code == 2
    assert "  --set     seed = x\n            Must be a whole number.\n" in result.stdout


@pytest.mark.contract
def test_diff_shows_the_values_that_differ_in_the_order_of_the_document(tmp_path: Path) -> None:
    other = ALONE.replace("0.01", "0.1").replace("name: tiny", "name: other")
    paths = write(tmp_path, "a.yaml", ALONE), write(tmp_path, "b.yaml", other)
    lines = run("diff", *paths).splitlines()
    assert [line.split() for line in lines] == [
        list(paths),
        ["name", "tiny", "other"],
        ["optim.lr", "0.01", "0.1"],
    ]
    assert json.loads(run("diff", *paths, "--json")) == {
        "name": ["tiny", "other"],
        "optim.lr": [0.01, 0.1],
    }
    assert run("diff", paths[0], paths[0]) == "The recipes are equal.\n"


@pytest.mark.contract
def test_diff_marks_what_one_side_does_not_have() -> None:
    lines = [line.split() for line in run("diff", "coco/ld_r18_r101", "shapes/ld").splitlines()]
    assert ["optim.momentum", "0.9", "–"] in lines
    assert ["optim.betas", "–", "[0.9,", "0.999]"] in lines


@pytest.mark.contract
def test_schema_explains_a_section() -> None:
    lines = run("schema", "objective.localization").splitlines()
    assert lines[0] == "objective.localization"
    assert lines[3] == "objective.localization.main (null by default)"
    rows = [line.split() for line in lines[5:10]]
    keys = ["weight", "temperature", "normalizer", "warmup_steps", "stop_step"]
    assert [row[0] for row in rows] == keys
    assert rows[0][1:4] == ["number", ">=", "0"]
    assert lines[10:12] == ["", "objective.localization.vlr (null by default)"]


@pytest.mark.contract
def test_every_section_of_the_objective_and_the_cache_is_explained() -> None:
    headings = {line.partition(" (")[0] for line in run("schema").splitlines()}
    regions = {f"cache.{name}" for name in ("main", "vlr", "imitation", "score", "cross")}
    terms = {"localization.main", "localization.vlr", "classification_kd.main", "imitation"}
    terms |= {"classification_kd.vlr", "score.classification", "cross.box", "vlr"}
    assert regions | {f"objective.{term}" for term in terms} <= headings
    kinds = [line for line in run("schema", "objective.classification_kd.main").splitlines() if
             line.startswith("objective")]  # fmt: skip
    assert kinds == [
        "objective.classification_kd.main (kind: softmax, null by default)",
        "objective.classification_kd.main (kind: binary, null by default)",
    ]


@pytest.mark.contract
def test_show_tells_where_the_terms_of_the_whole_method_come_from() -> None:
    lines = run("show", "coco/full_r18_r101").splitlines()
    start = lines.index("  localization:")
    rows = [line.split("#") for line in lines[start:] if "#" in line]
    shown = [(key.strip(), origin.strip().partition(":")[0]) for key, origin in rows]
    assert shown[:5] == [
        ("weight: 0.25", "ld_r18_r101.yaml"),
        ("temperature: 10.0", "ld_r18_r101.yaml"),
        ("normalizer: paper", "ld_r18_r101.yaml"),
        ("warmup_steps: 0", "default"),
        ("stop_step: null", "default"),
    ]
    assert shown[5:8] == [
        ("weight: 0.25", "full_r18_r101.yaml"),
        ("temperature: 10.0", "full_r18_r101.yaml"),
        ("normalizer: paper", "full_r18_r101.yaml"),
    ]
    assert shown[10] == ("kind: softmax", "full_r18_r101.yaml")


@pytest.mark.contract
def test_diff_shows_what_the_whole_method_adds() -> None:
    told = json.loads(run("diff", "coco/ld_r50_r101", "coco/full_r50_r101", "--json"))
    assert told["objective.localization.vlr.weight"] == [None, 0.25]
    assert told["objective.classification_kd.main.kind"] == [None, "softmax"]
    assert told["cache.vlr.bbox_logits"] == [None, "u8"]
    sections = {key.rpartition(".")[0] for key in told}
    assert sections == {
        *("", "cache", "cache.vlr", "objective.localization.vlr"),
        *("objective.classification_kd.main", "expect"),
    }


@pytest.mark.contract
def test_schema_without_a_section_explains_everything_and_speaks_json() -> None:
    text = run("schema")
    assert text.startswith("a recipe\n  The document of one run.\n  name  text")
    for heading in ("optim (kind: sgd, required)", "student (null by default)", "views"):
        assert f"\n{heading}\n" in text
    told = json.loads(run("schema", "optim", "--json"))
    assert [each["kind"] for each in told] == ["kind: sgd", "kind: adamw"]
    assert told[0]["keys"][1] == {
        "key": "optim.lr",
        "type": "number > 0",
        "default": "required",
        "text": "Learning rate after the warm-up.",
    }


@pytest.mark.contract
def test_schema_of_a_slip_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="optm: there is no such section or key"):
        run("schema", "optm")


def commands_of(path: Path) -> list[str]:
    """Return the commands of the Run lines in a recipe's header."""
    lines = path.read_text(encoding="utf-8").splitlines()
    header = "\n".join(takewhile(lambda line: line.startswith("#"), lines))
    return [line.strip("# ") for line in header.partition("# Run ")[2].splitlines()]


@pytest.mark.contract
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_run_lines_of_a_recipe_are_commands_with_their_options(path: Path) -> None:
    commands = commands_of(path)
    assert commands
    for text in commands:
        _, *words = shlex.split(text)
        command = get_command(root)
        while isinstance(command, typer.core.TyperGroup):
            command = command.commands[words.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, text
        named = [word for word in words if word.partition("/")[0] in ("coco", "shapes", "own")]
        assert set(named) <= set(shipped_recipes()), text


PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.contract
@pytest.mark.parametrize("block", blocks("console"), ids=lambda block: block[2:40])
def test_the_page_of_recipes_shows_real_output(block: str) -> None:
    command, _, shown = block.partition("\n")
    program, group, *words = shlex.split(command.removeprefix("$ "))
    assert (program, group) == ("ldkit", "recipe")
    told = CliRunner().invoke(app, words).stdout
    head, cut, tail = shown.partition("\n...\n")
    if cut:
        assert told.startswith(head)
        assert told.endswith(tail)
    else:
        assert told == shown


@pytest.mark.contract
@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.split()[1])
def test_a_recipe_of_the_page_is_valid(block: str, tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "a.yaml", block)).recipe.name in block


@pytest.mark.contract
@pytest.mark.parametrize("line", "".join(blocks("bash")).splitlines())
def test_the_overrides_of_the_page_are_valid(line: str) -> None:
    words = shlex.split(line)
    overrides = [value for flag, value in pairwise(words) if flag == "--set"]
    assert overrides
    load_recipe(words[2], overrides)
