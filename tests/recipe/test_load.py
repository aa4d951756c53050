import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldkit.errors import RecipeError
from ldkit.recipe.load import check_recipe, leaves, load_recipe, override, shipped_recipes
from ldkit.recipe.yaml_writer import write_value
from tests.recipe.documents import ALONE, TAUGHT, complaint, write

NUMBERS = {
    "seed": st.integers(0, 2**31),
    "optim.lr": st.floats(1e-9, 10),
    "optim.momentum": st.floats(0, 1),
    "train.batch_size": st.integers(1, 512),
    "views.flip": st.floats(0, 1),
    "data.root": st.text(max_size=9),
    "train.channels_last": st.booleans(),
    "views.short_side_px": st.lists(st.integers(1, 999), min_size=2, max_size=2).map(sorted),
    "schedule.max_steps": st.none() | st.integers(1, 99),
}
settings_of_recipes = st.fixed_dictionaries({}, optional=NUMBERS)


@pytest.mark.law
@settings(deadline=None, max_examples=40)
@given(settings_of_recipes)
def test_what_is_set_is_read_back_and_nothing_else_changes(given_: dict[str, object]) -> None:
    plain = load_recipe("coco/gfl_r18")
    loaded = load_recipe("coco/gfl_r18", [f"{key}={write_value(v)}" for key, v in given_.items()])
    values = dict(leaves(loaded.document))
    assert {key: values[key] for key in given_} == given_
    assert all(loaded.origins[key] == "--set" for key in given_)
    untouched = values.keys() - given_.keys()
    before = dict(leaves(plain.document))
    assert {key: values[key] for key in untouched} == {key: before[key] for key in untouched}
    assert all(loaded.origins[key] == plain.origins[key] for key in untouched)


@pytest.mark.law
@settings(deadline=None, max_examples=30)
@given(settings_of_recipes, st.data())
def test_overrides_of_different_keys_may_come_in_any_order(
    given_: dict[str, object], data: st.DataObject
) -> None:
    given_ = {key: value for key, value in given_.items() if not key.startswith("optim.")}
    overrides = [f"{key}={write_value(value)}" for key, value in given_.items()]
    overrides += ["optim.kind=adamw", "optim.lr=0.5"]
    shuffled = data.draw(st.permutations(overrides))
    straight = load_recipe("coco/gfl_r18", overrides).recipe
    assert load_recipe("coco/gfl_r18", shuffled).recipe == straight


@pytest.mark.law
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, len(TAUGHT)), removed=st.integers(0, 9), added=st.text(max_size=6))
def test_whatever_stands_in_a_file_the_answer_is_a_recipe_or_a_list_of_problems(
    place: int, removed: int, added: str, tmp_path: Path
) -> None:
    text = TAUGHT[:place] + added + TAUGHT[place + removed :]
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    told = "1 problem"
    try:
        load_recipe(str(path))
    except RecipeError as error:
        told = error.message
    assert "problem" in told or "is not UTF-8 text" in told


KEYS = [key for key, _ in leaves(load_recipe("coco/ld_r18_r101").document)]
VALUES = ["", "null", "-1", "0", "1.5", "[]", "[1, x]", "{}", "{a: 1}", "yes", "true", ".nan", "["]


@pytest.mark.law
@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), max_size=4))
def test_whatever_is_set_the_answer_is_a_recipe_or_a_list_of_problems(
    given_: list[tuple[str, str]],
) -> None:
    deeper = [(f"{key}.{key}", value) for key, value in given_[:1]]
    overrides = [f"{key}={value}" for key, value in [*given_, *deeper]]
    _, problems = check_recipe("coco/ld_r18_r101", overrides)
    assert all(problem.subject and problem.text.endswith((".", "?")) for problem in problems)
    assert all(str(problem.origin) for problem in problems)


@pytest.mark.contract
def test_of_two_equal_keys_the_later_wins_and_flags_lie_below_set(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", TAUGHT)
    flags = {"student.backbone.name": ("--student", "resnet34"), "cache.path": ("--cache", "1e5")}
    loaded = load_recipe(path, ["optim.lr=1", "optim.lr=2e-3"], flags)
    assert loaded.recipe.optim.lr == 2e-3
    assert loaded.document["student"]["backbone"]["name"] == "resnet34"
    assert loaded.document["student"]["backbone"]["pretrained"] is False
    assert loaded.document["cache"]["path"] == "1e5"
    assert loaded.origins["student.backbone.name"] == "--student"
    assert loaded.origins["cache.path"] == "--cache"
    over = load_recipe(path, ["student.backbone.name=resnet50"], flags)
    assert over.origins["student.backbone.name"] == "--set"


@pytest.mark.contract
def test_every_value_knows_its_origin(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", ALONE)
    loaded = load_recipe(path, ["views.flip=0"])
    assert list(loaded.origins) == [key for key, _ in leaves(loaded.document)]
    assert loaded.source == path
    assert loaded.origins["name"] == f"{path}:1"
    assert loaded.origins["optim.momentum"] == f"{path}:4"
    assert loaded.origins["schedule.milestones"] == f"{path}:8"
    assert loaded.origins["views.flip"] == "--set"
    assert loaded.origins["optim.weight_decay"] == "default"
    assert loaded.origins["teacher"] == "default"


@pytest.mark.contract
def test_a_child_lies_over_its_parent_and_grandparent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "base/root.yaml", ALONE)
    write(tmp_path, "base/middle.yaml", "extends: root.yaml\noptim: {lr: 0.5}\nseed: 3\n")
    write(tmp_path, "mine/leaf.yaml", "extends: ../base/middle.yaml\nname: leaf\nseed: 4\n")
    monkeypatch.chdir(tmp_path)
    loaded = load_recipe("mine/leaf.yaml")
    assert loaded.source == "mine/leaf.yaml"
    assert (loaded.recipe.name, loaded.recipe.seed) == ("leaf", 4)
    assert (loaded.document["optim"]["lr"], loaded.document["optim"]["momentum"]) == (0.5, 0.8)
    assert loaded.origins["seed"] == "mine/leaf.yaml:3"
    assert loaded.origins["optim.lr"] == "base/middle.yaml:2"
    assert loaded.origins["optim.momentum"] == "base/root.yaml:4"


@pytest.mark.contract
def test_a_recipe_of_one_s_own_extends_a_shipped_one_by_name(tmp_path: Path) -> None:
    text = "extends: coco/ld_r18_r101\nname: mine\ncache: {path: caches/mine}\n"
    mine = dict(leaves(load_recipe(write(tmp_path, "mine.yaml", text)).document))
    theirs = dict(leaves(load_recipe("coco/ld_r18_r101").document))
    assert mine == {**theirs, "name": "mine", "cache.path": "caches/mine"}


@pytest.mark.contract
def test_null_switches_off_what_a_parent_has(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", TAUGHT)
    text = "extends: base.yaml\nobjective: {localization: {main: null}, distribution: null}\n"
    recipe = load_recipe(write(tmp_path, "a.yaml", text)).recipe
    assert recipe.objective.localization.main is None
    assert recipe.objective.distribution is None
    on = load_recipe(str(tmp_path / "a.yaml"), ["objective.localization.main.weight=2"]).recipe
    assert on.objective.localization.main is not None
    assert on.objective.localization.main.weight == 2


@pytest.mark.contract
def test_another_kind_replaces_the_parent_s_section(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", ALONE)
    text = (
        "extends: base.yaml\noptim: {kind: adamw, lr: 1e-3}\nschedule: {kind: cosine, epochs: 3}\n"
        "model: {backbone: {name: resnet18}}\n"
    )
    loaded = load_recipe(write(tmp_path, "a.yaml", text))
    assert loaded.document["optim"]["kind"] == "adamw"
    assert loaded.document["schedule"]["kind"] == "cosine"
    assert loaded.document["model"]["backbone"]["name"] == "resnet18"


@pytest.mark.contract
@pytest.mark.parametrize(
    ("extends", "text"),
    [
        ("a.yaml", "A recipe cannot extend itself: a.yaml → a.yaml."),
        ("[b.yaml, c.yaml]",
         "Must be one parent: a path relative to this file, or a shipped recipe's name."),
        ("5", "Must be one parent: a path relative to this file, or a shipped recipe's name."),
        ("coco/base_1y", "There is no such recipe. Did you mean `coco/base_1x`?"),
    ],
)  # fmt: skip
def test_a_parent_that_cannot_be_is_refused_with_its_line(
    extends: str, text: str, tmp_path: Path
) -> None:
    told = complaint(write(tmp_path, "a.yaml", f"extends: {extends}\nname: a\n"))
    assert told.startswith(": 1 problem\n\n  line 1    extends")
    assert text in " ".join(told.split())


@pytest.mark.contract
@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_may_be_extended(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, "mine.yaml", f"extends: {name}\nname: mine\n")
    assert load_recipe(path).recipe == load_recipe(name, ["name=mine"]).recipe


@pytest.mark.contract
def test_a_flag_may_set_a_section(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", TAUGHT)
    deform = {"stages": (2, 3), "version": 2}
    loaded = load_recipe(path, [], {"student.backbone.deform": ("--student", deform)})
    assert loaded.document["student"]["backbone"]["deform"] == {"stages": [2, 3], "version": 2}
    assert loaded.origins["student.backbone.deform.version"] == "--student"


@pytest.mark.contract
def test_a_circle_and_a_fifth_generation_are_refused(tmp_path: Path) -> None:
    for name, parent in (("a", "b"), ("b", "c"), ("c", "a")):
        write(tmp_path, f"{name}.yaml", f"extends: {parent}.yaml\n")
    told = complaint(str(tmp_path / "a.yaml"))
    assert "  c.yaml:1   extends = a.yaml\n" in told
    assert "A recipe cannot extend itself: a.yaml → b.yaml → c.yaml → a.yaml." in told
    write(tmp_path, "c.yaml", "extends: d.yaml\n")
    write(tmp_path, "d.yaml", "extends: e.yaml\n")
    write(tmp_path, "e.yaml", ALONE)
    told = " ".join(complaint(str(tmp_path / "a.yaml")).split())
    assert "may have three parents above it, and there it ends: a.yaml → b.yaml → c.yaml" in told
    assert load_recipe(str(tmp_path / "b.yaml")).recipe.name == "tiny"


@pytest.mark.contract
def test_a_fault_of_a_parent_is_told_with_the_parent_s_line(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", ALONE.replace("0.01", "-1"))
    told = complaint(write(tmp_path, "a.yaml", "extends: base.yaml\nseed: x\n"))
    assert told.startswith(
        ": 2 problems\n\n  line 2        seed = x\n                Must be a whole number.\n"
        "  base.yaml:4   optim.lr = -1\n"
    )
    write(tmp_path, "base.yaml", "a: [1\n")
    assert "  base.yaml:2   not YAML\n" in complaint(str(tmp_path / "a.yaml"))


@pytest.mark.contract
def test_repeated_keys_and_faults_are_told_together(tmp_path: Path) -> None:
    told = complaint(write(tmp_path, "a.yaml", ALONE + "name: again\ntrane: {}\n"), "seed")
    assert told.startswith(": 3 problems")
    assert "  line 9    name\n            The key stands twice: first in line 1. Keep one." in told
    assert "  line 10   trane\n            Unknown key. Did you mean `train`?" in told
    assert "  --set     seed\n            Must be KEY=VALUE, such as `--set optim.lr=0.01`." in told


@pytest.mark.contract
@pytest.mark.parametrize("override", ["optim.lr", "=1", "optim..lr=1", ".lr=1", "optim.=1", ""])
def test_an_override_must_be_key_equals_value(override: str, tmp_path: Path) -> None:
    told = complaint(write(tmp_path, "a.yaml", ALONE), override)
    assert "Must be KEY=VALUE, such as `--set optim.lr=0.01`." in told


@pytest.mark.contract
def test_an_override_that_is_not_yaml_is_told_with_its_key(tmp_path: Path) -> None:
    told = complaint(write(tmp_path, "a.yaml", ALONE), "schedule.milestones=[8, 11")
    assert "  --set     schedule.milestones: not YAML\n" in told


@pytest.mark.contract
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(RecipeError, match=r"is not UTF-8 text: byte 9 is 0xe9\."):
        load_recipe(str(path))

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert str(caught.value) == f"{path}: cannot be read: Permission denied."


@pytest.mark.contract
def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "a.yaml", "\ufeff" + ALONE)).recipe.name == "tiny"


@pytest.mark.contract
def test_an_empty_file_says_how_to_begin(tmp_path: Path) -> None:
    told = complaint(write(tmp_path, "a.yaml", "# nothing yet\n"))
    assert "Is empty. `ldkit recipe show shapes/teacher` prints one to begin with." in told


@pytest.mark.contract
def test_checking_tells_the_same_without_raising(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", ALONE)
    assert check_recipe(path) == (path, ())
    _, problems = check_recipe(path, ["optim.lr=-1"])
    assert [problem.subject for problem in problems] == ["optim.lr = -1"]


@pytest.mark.contract
def test_a_recipe_at_hand_takes_overrides_as_a_file_does() -> None:
    recipe = load_recipe("shapes/ld").recipe
    wanted = ["optim.lr=1", "objective.localization.main=null"]
    changed = override(recipe, "model.pt", wanted)
    assert changed == load_recipe("shapes/ld", wanted).recipe
    assert override(recipe, "model.pt", []) == recipe
    with pytest.raises(RecipeError) as caught:
        override(recipe, "model.pt", ["optim.lr=-1", "seed"])
    assert str(caught.value).startswith("model.pt: 2 problems\n\n  --set     seed\n")


@pytest.mark.contract
def test_recipes_are_read_without_torch() -> None:
    script = (
        "import sys\n"
        "from ldkit.recipe.load import load_recipe\n"
        "load_recipe('coco/ld_r18_r101')\n"
        "print([n for n in ('torch', 'numpy', 'timm', 'rich', 'typer') if n in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert result.stdout.strip() == b"[]"
