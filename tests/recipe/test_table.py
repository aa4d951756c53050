"""The paper's table: what a short name is, and which recipe answers the flags of a command."""

from pathlib import Path

import pytest

from ldkit.errors import UsageError
from ldkit.recipe.detector import Deform, SmallBackbone, TimmBackbone
from ldkit.recipe.load import load_recipe, shipped_recipes
from ldkit.recipe.schema import Recipe
from ldkit.recipe.table import (
    SHORT_NAMES,
    Choice,
    Flags,
    Row,
    cache_recipe,
    rows,
    short_name,
    student_recipe,
    teacher_recipe,
)
from tests.recipe.documents import TAUGHT, write

pytestmark = pytest.mark.contract

DCN = Deform(stages=(2, 3, 4))


def load(choice: Choice, more: Flags | None = None) -> Recipe:
    return load_recipe(choice.name, [], choice.flags | (more or {})).recipe


@pytest.mark.parametrize("short", list(SHORT_NAMES))
def test_every_short_name_is_the_name_of_its_backbone(short: str) -> None:
    assert short_name(SHORT_NAMES[short]) == short


@pytest.mark.parametrize(
    ("backbone", "short"),
    [
        (TimmBackbone(name="resnet101.a1_in1k"), "r101"),
        (TimmBackbone(name="resnet101", deform=Deform(stages=(3, 4), version=2)), "r101dcn"),
        (TimmBackbone(name="resnext101_32x4d.gluon_in1k", deform=DCN), "x101dcn"),
        (TimmBackbone(name="resnet50", deform=DCN), "r50dcn"),
        (TimmBackbone(name="convnext_tiny"), "convnext_tiny"),
        (SmallBackbone(name="small"), "small"),
    ],
)
def test_a_short_name_tells_deformable_networks_from_plain_ones(
    backbone: TimmBackbone | SmallBackbone, short: str
) -> None:
    assert short_name(backbone) == short


def test_the_rows_are_the_shipped_distillations_the_default_student_first() -> None:
    found = rows()
    assert {(row.teacher, row.student) for row in found} == {
        ("r101", "r18"),
        ("r101", "r34"),
        ("r101", "r50"),
        ("r101dcn", "r101"),
        ("r101dcn", "r18"),
        ("r101dcn", "r50"),
        ("r18", "r18"),
        ("r50", "r50"),
        ("x101dcn", "x101dcn"),
    }
    assert found[0] == Row("coco/ld_r18_r101", "r18", "r101")
    assert [row.student == "r18" for row in found] == [True] * 3 + [False] * 6


def test_other_methods_and_chains_are_named_not_chosen() -> None:
    """A short name picks main LD: what it means stays when recipes are added."""
    named = {f"coco/{method}_r18_r101" for method in ("full", "bckd", "crosskd")}
    named |= {
        "coco/full_r34_r101",
        "coco/full_r50_r101",
        "coco/chain_r18_r50",
        "coco/ldv2_r50_r101",
    }
    assert named <= set(shipped_recipes())
    assert not named & {row.recipe for row in rows()}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.recipe)
def test_a_row_s_recipe_trains_its_student_with_its_teacher_s_file(row: Row) -> None:
    recipe = load_recipe(row.recipe).recipe
    assert recipe.student is not None
    assert recipe.teacher is not None
    assert recipe.teacher.recipe is not None
    assert short_name(recipe.student.backbone) == row.student
    assert recipe.teacher.checkpoint == f"{row.teacher}.pt"
    teacher = load_recipe(recipe.teacher.recipe).recipe
    assert short_name(teacher.detector.backbone) == row.teacher
    assert teacher_recipe(None, row.teacher) == Choice(recipe.teacher.recipe, row.teacher)


@pytest.mark.parametrize("arch", ["r18", "r34", "r50", "r101", "r101dcn", "x101dcn"])
def test_arch_takes_the_recipe_of_that_name(arch: str) -> None:
    choice = teacher_recipe(None, arch)
    assert choice == Choice(f"coco/gfl_{arch}", arch)
    backbone = load(choice).detector.backbone
    assert isinstance(backbone, TimmBackbone)
    assert (backbone.name, backbone.deform) == (SHORT_NAMES[arch].name, SHORT_NAMES[arch].deform)


def test_without_any_name_the_teacher_of_the_product_s_command_line_is_trained() -> None:
    assert teacher_recipe(None, None) == Choice("coco/gfl_r101dcn", "r101dcn")


def test_arch_without_a_recipe_of_its_own_takes_r101_s_with_its_backbone() -> None:
    recipe = load(teacher_recipe(None, "x101"))
    assert recipe.name == "gfl_x101"
    assert recipe.schedule.epochs == 24
    assert recipe.detector.backbone == TimmBackbone(name="resnext101_32x4d")
    recipe = load(teacher_recipe(None, "convnext_tiny"))
    assert (recipe.name, recipe.detector.backbone.name) == ("gfl_convnext_tiny", "convnext_tiny")
    assert recipe.expect is None


def test_a_short_name_says_all_about_a_named_recipe_s_layers() -> None:
    deformable = load(teacher_recipe("coco/gfl_r50", "r101dcn"))
    assert deformable.detector.backbone == TimmBackbone(name="resnet101", deform=DCN)
    assert deformable.name == "gfl_r50"
    plain = load(teacher_recipe("coco/gfl_r101dcn", "r50"))
    assert plain.detector.backbone == TimmBackbone(name="resnet50")
    other = load(teacher_recipe("coco/gfl_r101dcn", "x101dcn"))
    assert other.detector.backbone == SHORT_NAMES["x101dcn"]


def test_a_name_of_timm_only_renames_the_backbone() -> None:
    backbone = load(teacher_recipe("coco/gfl_r101dcn", "resnet152")).detector.backbone
    assert backbone == TimmBackbone(name="resnet152", deform=DCN)
    assert load(teacher_recipe("coco/gfl_r101dcn", "small")).detector.backbone == SmallBackbone(
        name="small"
    )


def test_a_named_recipe_without_a_flag_stays_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", TAUGHT)
    assert student_recipe(path, None, "r101dcn") == Choice(path, "")
    assert load(student_recipe(path, "r101dcn")).detector.backbone == TimmBackbone(
        name="resnet101", pretrained=False, deform=DCN
    )


@pytest.mark.parametrize(
    ("student", "teacher", "recipe"),
    [
        (None, None, "coco/ld_r18_r101"),
        ("r18", None, "coco/ld_r18_r101"),
        ("r50", None, "coco/ld_r50_r101"),
        ("r101", None, "coco/ld_r101_r101dcn"),
        ("x101dcn", None, "coco/self_ld_x101dcn"),
        ("r18", "r101", "coco/ld_r18_r101"),
        ("r18", "r101dcn", "coco/ld_r18_r101dcn"),
        ("r101", "r101dcn", "coco/ld_r101_r101dcn"),
        ("r50", "r101dcn", "coco/ld_r50_r101dcn"),
        ("r18", "r18", "coco/self_ld_r18"),
        (None, "r101", "coco/ld_r18_r101"),
        (None, "r101dcn", "coco/ld_r18_r101dcn"),
        (None, "r50", "coco/self_ld_r50"),
        (None, "x101dcn", "coco/self_ld_x101dcn"),
    ],
)
def test_the_teacher_at_hand_decides_the_student_s_row(
    student: str | None, teacher: str | None, recipe: str
) -> None:
    choice = student_recipe(None, student, teacher)
    assert choice.name == recipe
    assert choice.flags == {}


def test_another_student_takes_the_r18_row_of_the_teacher_with_its_backbone() -> None:
    choice = student_recipe(None, "r34", "r101dcn")
    recipe = load(choice)
    assert (choice.name, recipe.name) == ("coco/ld_r18_r101dcn", "ld_r34_r101dcn")
    assert recipe.detector.backbone == TimmBackbone(name="resnet34")
    recipe = load(student_recipe(None, "r101dcn", "r101dcn"))
    assert recipe.detector.backbone == TimmBackbone(name="resnet101", deform=DCN)
    assert recipe.name == "ld_r101dcn_r101dcn"
    recipe = load(student_recipe(None, "convnext_tiny"))
    assert recipe.name == "ld_convnext_tiny_r101"


TABLE = """\
  coco/ld_r18_r101      r101 → r18
  coco/ld_r18_r101dcn   r101dcn → r18
  coco/self_ld_r18      r18 → r18
  coco/ld_r101_r101dcn  r101dcn → r101
  coco/ld_r34_r101      r101 → r34
  coco/ld_r50_r101      r101 → r50
  coco/ld_r50_r101dcn   r101dcn → r50
  coco/self_ld_r50      r50 → r50
  coco/self_ld_x101dcn  x101dcn → x101dcn"""


def test_a_pair_without_a_row_is_refused_with_the_table() -> None:
    with pytest.raises(UsageError) as caught:
        student_recipe(None, "r18", "x101dcn")
    assert str(caught.value) == (
        "ldkit distill: no recipe of the paper's table distills x101dcn into r18.\n"
        f"Name the recipe that the teacher rows were made for. The table:\n{TABLE}"
    )
    with pytest.raises(UsageError, match="distills small into r18"):
        student_recipe(None, None, "small")


@pytest.mark.parametrize(
    ("teacher", "recipe"),
    [
        ("r101", "coco/ld_r18_r101"),
        ("r101dcn", "coco/ld_r18_r101dcn"),
        ("r18", "coco/self_ld_r18"),
        ("r50", "coco/self_ld_r50"),
        ("x101dcn", "coco/self_ld_x101dcn"),
    ],
)
def test_a_teacher_is_cached_for_its_first_row(teacher: str, recipe: str) -> None:
    assert cache_recipe(teacher) == recipe
    # What `ldkit distill` takes then, without any flag.
    assert student_recipe(None, None, teacher).name == recipe


def test_a_teacher_without_a_row_is_refused_with_the_table() -> None:
    with pytest.raises(UsageError) as caught:
        cache_recipe("x101")
    assert str(caught.value) == (
        "ldkit cache-logits: no recipe of the paper's table has the teacher x101.\n"
        f"Name the recipe that you are going to distill with. The table:\n{TABLE}"
    )
