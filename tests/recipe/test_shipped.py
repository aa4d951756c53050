import re
from pathlib import Path
from typing import NamedTuple

import pytest

from ldkit.errors import RecipeError
from ldkit.recipe.detector import Deform, Fpn, Head, QualityHead, TimmBackbone
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
    whole = {"full_r18_r101", "full_r34_r101", "full_r50_r101"}
    others = {"ld_r50_r101dcn", "chain_r18_r50", "bckd_r18_r101", "crosskd_r18_r101"}
    others |= {"gflv2_r50", "gflv2_r101", "ldv2_r50_r101"}
    wanted = {f"coco/{name}" for name in alone | taught | themselves | whole | others}
    shapes = ("teacher", "student", "middle", "ld", "full", "self_ld", "chain")
    wanted |= {f"shapes/{name}" for name in shapes} | {"own/teacher", "own/ld", "own/full"}
    assert wanted <= set(names)
    assert list(names) == sorted(names)
    assert not [name for name in names if "base" in name]
    assert {path.stem for path in FILES} >= {"base", "base_1x"}


ALWAYS = {"warmup_steps": 0, "stop_step": None}
LD = {"weight": 0.25, "temperature": 10.0, "normalizer": "paper"} | ALWAYS


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
        "vlr": {"overlap": "published", "floor": 0.25, "weight": "iou", "exclude_main": False},
        "localization": {"main": LD, "vlr": None},
        "classification_kd": {"main": None, "vlr": None},
        "imitation": None,
        "score": {"floor": 0.05, "classification": None, "box": None},
        "cross": {"after": 3, "classification": None, "box": None},
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
    "ld_r50_r101dcn": Published("resnet50", None, 12, 6, None),
    "chain_r18_r50": Published("resnet18", None, 12, 6, None),
    "full_r18_r101": Published("resnet18", None, 12, 6, (37.5, None, None)),
    "full_r34_r101": Published("resnet34", None, 12, 6, (41.0, None, None)),
    "full_r50_r101": Published("resnet50", None, 12, 6, (42.1, 60.3, 45.6)),
    "gflv2_r50": Published("resnet50", None, 12, 6, (41.1, None, None)),
    "gflv2_r101": Published("resnet101", None, 24, 6, None),
    "ldv2_r50_r101": Published("resnet50", None, 12, 6, None),
    "bckd_r18_r101": Published("resnet18", None, 12, 6, None),
    "crosskd_r18_r101": Published("resnet18", None, 12, 6, None),
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
    head = QualityHead(kind="gflv2") if "v2_" in name else Head()
    assert (recipe.detector.fpn, recipe.detector.head) == (Fpn(), head)
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


MAIN_LD = ("ld_", "self_ld_", "chain_")


@pytest.mark.golden
@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith(MAIN_LD)])
def test_every_row_s_distillation_is_main_ld_alone(name: str) -> None:
    recipe = load_recipe(f"coco/{name}").recipe
    main = LocalizationTerm(weight=0.25, temperature=10.0, normalizer="paper")
    alone = load_recipe("coco/gfl_r18").recipe.objective
    assert recipe.objective == alone.model_copy(update={"localization": Localization(main=main)})


@pytest.mark.golden
@pytest.mark.parametrize("student", ["r18", "r34", "r50"])
def test_the_whole_method_adds_ld_on_the_vlr_and_class_kd(student: str) -> None:
    """Source: defaults of the published LD head, and its configurations of R-18 and R-34."""
    whole = load_recipe(f"coco/full_{student}_r101").document
    alone = load_recipe(f"coco/ld_{student}_r101").document
    kd = {"kind": "softmax", "weight": 10.0, "temperature": 2.0, "classes": "mean"}
    added = {
        "localization": {"main": LD, "vlr": LD},
        "classification_kd": {"main": kd | {"normalizer": "paper"} | ALWAYS, "vlr": None},
    }
    assert whole["objective"] == alone["objective"] | added
    assert whole["cache"] == alone["cache"] | {
        "path": "caches/r101_full",
        "vlr": {"bbox_logits": "u8", "cls_logits": None},
    }
    same = ("seed", "data", "views", "teacher", "student", "optim", "schedule", "train", "eval")
    assert {key: whole[key] for key in same} == {key: alone[key] for key in same}


@pytest.mark.golden
def test_gflv2_s_student_and_teacher_have_the_terms_of_the_whole_method() -> None:
    """Source: public GFLv2 configuration of the LD code, without its imitation."""
    second = load_recipe("coco/ldv2_r50_r101").recipe
    assert second.teacher is not None
    assert second.teacher.recipe is not None
    teacher = load_recipe(second.teacher.recipe).recipe.model
    assert second.student is not None
    assert teacher is not None
    assert teacher.head == second.student.head == QualityHead(kind="gflv2")
    assert second.objective == load_recipe("coco/full_r50_r101").recipe.objective
    assert load_recipe("coco/gflv2_r50").recipe.model == second.student


@pytest.mark.golden
@pytest.mark.parametrize(("method", "terms"), [("bckd", "score"), ("crosskd", "cross")])
def test_other_methods_have_their_published_weights_and_no_figure(method: str, terms: str) -> None:
    """Source: BCKD (ICCV 2023) and CrossKD (CVPR 2024): classes 1, boxes 4, no LD."""
    recipe = load_recipe(f"coco/{method}_r18_r101").recipe
    on = {key: section.weight for key, _, section in recipe.objective.distillation_terms()}
    assert on == {f"objective.{terms}.classification": 1.0, f"objective.{terms}.box": 4.0}
    assert recipe.objective.score.floor == 0.05
    assert recipe.objective.cross.after == 3
    assert recipe.objective.weight_sum == "clamp_1"
    assert recipe.expect is None


@pytest.mark.contract
@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_s_cache_keeps_what_its_terms_read(name: str) -> None:
    recipe = load_recipe(name).recipe
    on = {term for _, term, _ in recipe.objective.distillation_terms()}
    if recipe.cache is None:
        assert not on
        return
    cache = recipe.cache
    assert (cache.vlr is not None) == bool(on & {"ld_vlr", "kd_vlr"})
    assert (cache.imitation is not None) == ("imitation" in on)
    assert (cache.cross is not None) == bool(on & {"cross_cls", "cross_box"})
    score = {"score_cls", "score_box", "cross_cls", "cross_box"}
    assert (cache.score is not None) == bool(on & score)
    if "kd_main" in on:
        assert cache.main.cls_logits is not None
    if "kd_vlr" in on:
        assert cache.vlr is not None
        assert cache.vlr.cls_logits is not None


@pytest.mark.contract
def test_a_chain_is_two_recipes_of_which_the_second_is_taught_by_the_first() -> None:
    for first, second in (("coco/ld_r50_r101dcn", "coco/chain_r18_r50"),
                          ("shapes/middle", "shapes/chain")):  # fmt: skip
        middle, end = load_recipe(first).recipe, load_recipe(second).recipe
        assert middle.teacher is not None
        assert middle.student is not None
        assert end.teacher is not None
        assert end.student is not None
        assert end.teacher.checkpoint == f"runs/{middle.name}/model.pt"
        assert end.teacher.recipe is None  # a recipe that trains a student makes no teacher
        assert middle.student != end.student
        assert middle.student.head == end.student.head
        assert (middle.data, middle.views) == (end.data, end.views)
        assert middle.objective == end.objective


@pytest.mark.contract
@pytest.mark.parametrize(
    "name", ["coco/self_ld_r18", "coco/self_ld_r50", "coco/self_ld_x101dcn", "shapes/self_ld"]
)
def test_a_self_distillation_is_one_whose_teacher_has_the_student_s_architecture(name: str) -> None:
    recipe = load_recipe(name).recipe
    assert recipe.teacher is not None
    assert recipe.teacher.recipe is not None
    teacher = load_recipe(recipe.teacher.recipe).recipe
    assert teacher.model == recipe.student
    assert (teacher.data, teacher.schedule, teacher.optim) == (
        recipe.data, recipe.schedule, recipe.optim)  # fmt: skip


@pytest.mark.contract
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_shipped_recipe_has_two_parents_at_most(path: Path) -> None:
    """Three are allowed, so that any of them can be extended."""
    parents = 0
    while match := re.search(r"^extends: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE):
        path = find_recipe(match[1], beside=path.parent)
        parents += 1
    assert parents <= 2


@pytest.mark.contract
def test_the_plain_arm_of_the_quickstart_is_valid() -> None:
    recipe = load_recipe("shapes/ld", ["objective.localization.main=null"]).recipe
    assert list(recipe.objective.distillation_terms()) == []
    assert recipe.student is not None


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
            content = (recipe.teacher.checkpoint, recipe.views, recipe.data, recipe.cache)
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
    assert text.startswith("xyz: there is no such recipe.\nShipped recipes: coco/bckd_r18_r101, ")
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
