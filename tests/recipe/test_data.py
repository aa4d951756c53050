from pathlib import Path

import pytest

from ldkit.recipe.data import CocoSplit, VocSplit, split_kind
from ldkit.recipe.describe import describe, kinds_of, names_in
from ldkit.recipe.load import load_recipe
from ldkit.recipe.schema import Expect, Recipe
from tests.recipe.documents import ALONE, complaint, write

VOC = "data.train={kind: voc, sets: [VOC2007/trainval, VOC2012/trainval]}"


@pytest.mark.contract
def test_a_split_is_of_coco_unless_it_says_otherwise(tmp_path: Path) -> None:
    path = write(tmp_path, "tiny.yaml", ALONE)
    assert isinstance(load_recipe(path).recipe.data.train, CocoSplit)
    recipe = load_recipe(path, [VOC]).recipe
    assert recipe.data.train == VocSplit(kind="voc", sets=("VOC2007/trainval", "VOC2012/trainval"))
    assert isinstance(recipe.data.val, CocoSplit)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    kinds = [split_kind(v) for v in (recipe.data.train, recipe.data.val, {"kind": "voc"}, {}, 5)]
    assert kinds == ["voc", "coco", "voc", "coco", "coco"]


@pytest.mark.contract
def test_a_split_of_the_other_kind_replaces_its_parents(tmp_path: Path) -> None:
    text = ALONE + "data:\n  root: here\n  train: {images: a, annotations: a.json}\n"
    parent = write(tmp_path, "parent.yaml", text)
    child = "extends: parent.yaml\ndata:\n  train: {kind: voc, sets: [VOC2007/trainval]}\n"
    path = write(tmp_path, "child.yaml", child)
    assert load_recipe(path).recipe.data.train == VocSplit(kind="voc", sets=("VOC2007/trainval",))
    back = load_recipe(path, ["data.train={kind: coco, images: b, annotations: b.json}"]).recipe
    assert back.data.train == CocoSplit(images="b", annotations="b.json")
    same = load_recipe(parent, ["data.train={kind: coco, images: b}"]).recipe
    assert same.data.train == CocoSplit(images="b", annotations="a.json")
    assert load_recipe(path, ["data.train.sets=[VOC2012/trainval]"]).recipe.data.root == "here"


@pytest.mark.contract
@pytest.mark.parametrize(
    ("override", "subject", "text"),
    [
        ("data.train={kind: vok}", "data.train.kind = vok",
         "Unknown kind. Known kinds: coco, voc. Did you mean `voc`?"),
        ("data.val={kind: voc}", "data.val.sets", "Required, but missing."),
        ("data.val={kind: voc, sets: []}", "data.val.sets = []",
         "Must name sets as FOLDER/SET, such as [VOC2007/trainval]."),
        ("data.val={kind: voc, sets: [trainval]}", "data.val.sets = [trainval]",
         "Must name sets as FOLDER/SET, such as [VOC2007/trainval]."),
        ("data.val={kind: voc, sets: [VOC2007/test], images: x}", "data.val.images",
         "Not a key of this kind. Known here: kind, sets."),
        ("data.train.sets=[VOC2007/test]", "data.train.sets",
         "Not a key of this kind. Known here: kind, images, annotations."),
        ("data.test_dev={kind: voc, sets: [VOC2007/test]}", "data.test_dev.kind = voc",
         "Unknown kind. Known kinds: coco."),
        ("data.train=images", "data.train = images", "Must be a section of keys and values."),
        ("expect.ap=365", "expect.ap = 365", "Must be at most 100."),
        ("expect={ap50: 52.9}", "expect.ap", "Required, but missing."),
        ("expect={ap: 36.5, apsmall: 1}", "expect.apsmall",
         "Unknown key. Did you mean `ap_small`?"),
    ],
)  # fmt: skip
def test_a_wrong_split_or_expectation_is_told_in_words(
    tmp_path: Path, override: str, subject: str, text: str
) -> None:
    told = complaint(write(tmp_path, "tiny.yaml", ALONE), override)
    assert f"  {subject}\n" in told
    assert f"  {text}\n" in told


@pytest.mark.contract
def test_a_recipe_may_carry_what_is_expected_of_it(tmp_path: Path) -> None:
    path = write(tmp_path, "tiny.yaml", ALONE)
    assert load_recipe(path).recipe.expect is None
    expect = load_recipe(path, ["expect={ap: 36.5, ap50: 52.9}"]).recipe.expect
    assert expect == Expect(ap=36.5, ap50=52.9)


@pytest.mark.contract
def test_both_kinds_of_a_split_are_described() -> None:
    assert [section.kind for section in describe("data.train")] == ["kind: coco", "kind: voc"]
    assert kinds_of("data.val") == ("coco", "voc")
    assert names_in("data.val", "voc") == ("kind", "sets")
    types = {key.key: key.type for section in describe("data") for key in section.keys}
    assert types["data.train.sets"] == "list of text"
