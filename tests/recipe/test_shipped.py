import re
from pathlib import Path
from typing import NamedTuple

import pytest

from ldkit.errors import RecipeError
from ldkit.recipe.detector import Deform, Fpn, Head, TimmBackbone
from ldkit.recipe.load import load_recipe
from ldkit.recipe.objective import Localization, LocalizationTerm
from ldkit.recipe.schema import Milestones, Sgd, Views
from ldkit.recipe.shipped import find_recipe, recipes_folder, shipped_recipes, title_of

FILES = sorted(recipes_folder().rglob("*.yaml"))


@pytest.mark.contract
@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_is_valid_and_named_after_its_file(name: str) -> None:
    recipe = load_recipe(name).recipe
    folder, _, stem = name.partition("/")
    assert recipe.name == (stem if folder == "coco" else f"{folder}_{stem}")


@pytest.mark.contract
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recipe_opens_with_source_expectation_needs_and_commands(path: Path) -> None:
    header = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        header.append(line)
    assert header[0].endswith(".")
    assert header[1] == "#"
    words = [match[1] for line in header if (match := re.match(r"# (\w+) {2,}\S", line))]
    assert words == ["Source", "Expect", "Needs", "Run"]


@pytest.mark.contract
def test_the_issue_s_recipes_are_shipped_and_bases_are_not_recipes() -> None:
    names = shipped_recipes()
    alone = {"gfl_r18", "gfl_r34", "gfl_r50", "gfl_r101", "gfl_r101dcn", "gfl_x101dcn"}
    taught = {"ld_r18_r101", "ld_r34_r101", "ld_r50_r101", "ld_r101_r101dcn", "ld_r18_r101dcn"}
    themselves = {"self_ld_r18", "self_ld_r50", "self_ld_x101dcn"}
    wanted = {f"coco/{name}" for name in alone | taught | themselves}
    assert wanted | {"shapes/teacher", "shapes/ld"} <= set(names)
    assert list(names) == sorted(names)
    assert not [name for name in names if "base" in name]
    assert {path.stem for path in FILES} >= {"base", "base_1x"}


@pytest.mark.golden
def test_the_paper_s_row_has_the_published_numbers() -> None:
    """Source: public configuration ld_r18_gflv1_r101_fpn_coco_1x, at mini-batch 6 (Main LD)."""
    student = load_recipe("coco/ld_r18_r101").document
    teacher = load_recipe("coco/gfl_r101").document
    assert student["objective"] == {
        "assign": {"topk": 9},
        "classification": {"kind": "qfl", "weight": 1.0, "beta": 2.0},
        "box": {"kind": "giou", "weight": 2.0},
        "distribution": {"kind": "dfl", "weight": 0.25},
        "weight_sum": "plus_epsilon",
        "localization": {"main": {"weight": 0.25, "temperature": 10.0, "normalizer": "paper"}},
    }
    assert student["optim"] == teacher["optim"]
    assert student["optim"] == {
        "kind": "sgd",
        "lr": 0.01 * 6 / 16,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "clip_norm": None,
    }
    shared = {"kind": "milestones", "factor": 0.1, "warmup_steps": 500, "warmup_start": 0.001}
    shared |= {"max_steps": None}
    assert student["schedule"] == {**shared, "epochs": 12, "milestones": [8, 11]}
    assert teacher["schedule"] == {**shared, "epochs": 24, "milestones": [16, 22]}
    assert student["train"]["batch_size"] == teacher["train"]["batch_size"] == 6
    assert student["views"]["short_side_px"] == 800
    assert teacher["views"]["short_side_px"] == [480, 800]
    assert student["student"]["head"] == teacher["model"]["head"]
    assert student["student"]["head"]["reg_max"] == 16
    assert student["eval"]["topk"] == "locations"


class Published(NamedTuple):
    """A row of the paper's table, or of its repository's."""

    backbone: str
    deform: tuple[int, ...] | None
    epochs: int
    batch: int
    ap: tuple[float, float | None, float | None] | None


# Source: README of the published LD code. Self-distillation is 1x; X-101-DCN in batches of four.
PUBLISHED = {
    "gfl_r18": Published("resnet18", None, 12, 6, (35.8, 53.1, 38.2)),
    "gfl_r34": Published("resnet34", None, 12, 6, (38.9, 56.6, 42.2)),
    "gfl_r50": Published("resnet50", None, 12, 6, (40.1, 58.2, 43.1)),
    "gfl_r101": Published("resnet101", None, 24, 6, (44.6, 62.9, 48.4)),
    "gfl_r101dcn": Published("resnet101", (2, 3, 4), 24, 6, (47.1, None, None)),
    "gfl_x101dcn": Published("resnext101_32x4d", (3, 4), 12, 4, (46.9, 65.4, 51.1)),
    "ld_r18_r101": Published("resnet18", None, 12, 6, (36.5, 52.9, 39.3)),
    "ld_r34_r101": Published("resnet34", None, 12, 6, (39.8, 56.6, 43.1)),
    "ld_r50_r101": Published("resnet50", None, 12, 6, (41.1, 58.7, 44.9)),
    "ld_r101_r101dcn": Published("resnet101", None, 24, 6, (45.4, 63.1, 49.5)),
    "ld_r18_r101dcn": Published("resnet18", None, 12, 6, None),
    "self_ld_r18": Published("resnet18", None, 12, 6, (36.1, 52.9, 38.5)),
    "self_ld_r50": Published("resnet50", None, 12, 6, (40.6, 58.2, 43.8)),
    "self_ld_x101dcn": Published("resnext101_32x4d", (3, 4), 12, 4, (47.5, 65.8, 51.8)),
}


@pytest.mark.golden
@pytest.mark.parametrize("name", list(PUBLISHED))
def test_every_row_has_the_published_numbers(name: str) -> None:
    row, recipe = PUBLISHED[name], load_recipe(f"coco/{name}").recipe
    backbone = recipe.detector.backbone
    assert backbone == TimmBackbone(
        name=row.backbone, deform=None if row.deform is None else Deform(stages=row.deform)
    )
    assert (recipe.detector.fpn, recipe.detector.head) == (Fpn(), Head())
    long = row.epochs == 24
    assert recipe.schedule == Milestones(
        kind="milestones", epochs=row.epochs, milestones=(16, 22) if long else (8, 11)
    )
    assert recipe.views == Views(
        short_side_px=(480, 800) if long else 800, count=24 if name == "ld_r101_r101dcn" else None
    )
    assert recipe.train.batch_size == row.batch
    assert recipe.optim == Sgd(kind="sgd", lr=0.01 * row.batch / 16)
    expected = recipe.expect
    found = None if expected is None else (expected.ap, expected.ap50, expected.ap75)
    assert found == row.ap


@pytest.mark.golden
@pytest.mark.parametrize("name", [name for name in PUBLISHED if "ld_" in name])
def test_every_distillation_is_main_ld_alone(name: str) -> None:
    recipe = load_recipe(f"coco/{name}").recipe
    main = LocalizationTerm(weight=0.25, temperature=10.0, normalizer="paper")
    alone = load_recipe("coco/gfl_r18").recipe.objective
    assert recipe.objective == alone.model_copy(update={"localization": Localization(main=main)})


@pytest.mark.contract
def test_students_of_one_cache_ask_for_the_same_views_and_rows() -> None:
    """One cache of r101.pt serves three students."""
    recipes = [load_recipe(f"coco/ld_{student}_r101").recipe for student in ("r18", "r34", "r50")]
    first = recipes[0]
    for recipe in recipes[1:]:
        assert (recipe.cache, recipe.views, recipe.data) == (first.cache, first.views, first.data)
        assert recipe.teacher == first.teacher
        assert recipe.seed == first.seed


@pytest.mark.contract
def test_recipes_of_different_teachers_or_views_have_caches_of_their_own() -> None:
    found: dict[str, tuple[object, ...]] = {}
    for name in shipped_recipes():
        recipe = load_recipe(name).recipe
        if recipe.cache is not None and recipe.teacher is not None:
            content = (recipe.teacher.checkpoint, recipe.views, recipe.data)
            assert found.setdefault(recipe.cache.path, content) == content, name


@pytest.mark.contract
def test_student_and_teacher_of_a_folder_fit_together() -> None:
    for folder, teacher in (("coco", "gfl_r101"), ("shapes", "teacher"), ("own", "teacher")):
        name = next(name for name in shipped_recipes() if name.startswith(f"{folder}/ld"))
        student, alone = load_recipe(name).recipe, load_recipe(f"{folder}/{teacher}").recipe
        assert student.student is not None
        assert alone.model is not None
        same = [(d.fpn.levels, d.head.reg_max, d.head.bin_width, d.head.anchor_scale) for d in
                (student.student, alone.model)]  # fmt: skip
        assert same[0] == same[1]
        assert student.data == alone.data


@pytest.mark.contract
def test_a_title_is_the_first_line_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# A title.\n#\nname: a\n", encoding="utf-8")
    assert title_of(path) == "A title"
    path.write_text("name: a\n", encoding="utf-8")
    assert title_of(path) == ""


def missing(name: str) -> str:
    with pytest.raises(RecipeError) as caught:
        find_recipe(name)
    return str(caught.value)


@pytest.mark.contract
def test_a_missing_name_gets_the_nearest_shipped_one() -> None:
    assert missing("coco/ld_r18_r10") == (
        "coco/ld_r18_r10: there is no such recipe.\nDid you mean `coco/ld_r18_r101`?"
    )
    assert missing("shape/ld").endswith("Did you mean `shapes/ld`?")


@pytest.mark.contract
def test_a_path_into_a_checkout_gets_the_shipped_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert missing("recipes/coco/ld_r18_r101.yaml").endswith("Did you mean `coco/ld_r18_r101`?")


@pytest.mark.contract
def test_a_missing_file_gets_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    found = missing(str(tmp_path / "mime.yaml"))
    assert found.endswith(f"Did you mean `{tmp_path / 'mine.yaml'}`?")


@pytest.mark.contract
def test_a_name_like_no_other_gets_the_list() -> None:
    text = missing("xyz")
    assert text.startswith("xyz: there is no such recipe.\nShipped recipes: coco/gfl_r101, ")
    assert text.endswith("Your own are named by a path that ends in .yaml.")


@pytest.mark.contract
def test_a_folder_and_another_ending_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/a.yaml").touch()
    assert missing("mine") == (
        "mine: is a folder, but a recipe is a file that ends in .yaml.\nIt holds mine/a.yaml."
    )
    Path("odd.yaml").mkdir()
    assert missing("odd.yaml").endswith("ends in .yaml.\nIt holds none.")
    Path("mine.txt").touch()
    assert missing("mine.txt") == "mine.txt: does not end in .yaml, as recipes do.\nRename it."
