"""Detector sections: what a recipe may say of deformable stages."""

from pathlib import Path

import pytest

from ldkit.recipe.detector import Deform, Head, QualityHead, TimmBackbone, head_kind
from ldkit.recipe.load import load_recipe
from tests.recipe.documents import complaint, write

DCN = """\
name: dcn
model:
  backbone: {name: resnet101, deform: {stages: [2, 3, 4]}}
optim: {kind: sgd, lr: 0.01}
schedule: {kind: cosine, epochs: 1}
"""


@pytest.mark.contract
def test_deformable_stages_are_read_with_version_1_by_default(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", DCN)
    backbone = load_recipe(path).recipe.detector.backbone
    assert backbone == TimmBackbone(name="resnet101", deform=Deform(stages=(2, 3, 4), version=1))
    plain = load_recipe(path, ["model.backbone.deform=null"]).recipe.detector.backbone
    assert plain == TimmBackbone(name="resnet101")


@pytest.mark.contract
@pytest.mark.parametrize(
    ("override", "place", "text"),
    [
        (
            "model.backbone.deform.stages=[1, 2]",
            "model.backbone.deform.stages = [1, 2]",
            "Must lie above the frozen ones (frozen_stages = 1), where nothing learns.",
        ),
        (
            "model.backbone.frozen_stages=2",
            "model.backbone.deform.stages = [2, 3, 4]",
            "Must lie above the frozen ones (frozen_stages = 2), where nothing learns.",
        ),
        (
            "model.backbone.deform.stages=[3, 2]",
            "model.backbone.deform.stages = [3, 2]",
            "Must name stages, rising, as [2, 3, 4].",
        ),
        (
            "model.backbone.deform.stages=[]",
            "model.backbone.deform.stages = []",
            "Must name stages, rising, as [2, 3, 4].",
        ),
        (
            "model.backbone.deform.stages=[4, 5]",
            "model.backbone.deform.stages[1] = 5",
            "Must be at most 4.",
        ),
        (
            "model.backbone.deform.stages=4",
            "model.backbone.deform.stages = 4",
            "Must be a list.",
        ),
        (
            "model.backbone.deform.version=3",
            "model.backbone.deform.version = 3",
            "Must be 1 or 2.",
        ),
        (
            "model.backbone.deform.groups=2",
            "model.backbone.deform.groups",
            "Unknown key. Known here: stages, version.",
        ),
    ],
)
def test_wrong_deformable_stages_are_told_in_words(
    override: str, place: str, text: str, tmp_path: Path
) -> None:
    told = complaint(write(tmp_path, "a.yaml", DCN), override)
    assert f"   {place}\n" in told
    assert f"   {text}\n" in told


@pytest.mark.contract
def test_a_small_backbone_has_no_deformable_stages(tmp_path: Path) -> None:
    text = DCN.replace("name: resnet101,", "name: small,")
    told = complaint(write(tmp_path, "a.yaml", text))
    assert "model.backbone.deform\n" in told
    assert "Not a key of this kind. Known here: name, width, depth.\n" in told


@pytest.mark.contract
def test_a_head_without_a_kind_is_that_of_gfl(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", DCN)
    assert load_recipe(path).recipe.detector.head == Head(kind="gfl")
    assert load_recipe(path, ["model.head.convs=2"]).recipe.detector.head == Head(convs=2)
    heads = (Head(), QualityHead(kind="gflv2"), {"kind": "gflv2"}, {"convs": 1}, 5, None)
    assert [head_kind(head) for head in heads] == ["gfl", "gflv2", "gflv2", "gfl", "gfl", "gfl"]


@pytest.mark.contract
def test_a_head_of_gflv2_keeps_the_keys_of_a_head_without_a_kind(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", DCN.replace("model:\n", "model:\n  head: {reg_max: 8}\n"))
    head = load_recipe(path, ["model.head.kind=gflv2"]).recipe.detector.head
    assert head == QualityHead(kind="gflv2", reg_max=8, topk=4, quality_channels=64)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("override", "place", "text"),
    [
        (
            "model.head={kind: gflv2, topk: 18}",
            "model.head.topk = 18",
            "Must be at most the 17 bins of an edge (reg_max + 1).",
        ),
        (
            "model.head={kind: gflv2, topk: 0}",
            "model.head.topk = 0",
            "Must be greater than 0.",
        ),
        (
            "model.head.kind=gflv3",
            "model.head.kind = gflv3",
            "Unknown kind. Known kinds: gfl, gflv2. Did you mean `gflv2`?",
        ),
        (
            "model.head={kind: gflv2, norm_groups: 7}",
            "model.head.norm_groups = 7",
            "Must divide fpn.channels = 256.",
        ),
    ],
)
def test_a_wrong_head_is_told_in_words(
    override: str, place: str, text: str, tmp_path: Path
) -> None:
    told = complaint(write(tmp_path, "a.yaml", DCN), override)
    assert f"   {place}\n" in told
    assert f"   {text}\n" in told


@pytest.mark.contract
def test_a_key_of_gflv2_is_none_of_gfl(tmp_path: Path) -> None:
    told = complaint(write(tmp_path, "a.yaml", DCN), "model.head.topk=4")
    assert "Not a key of this kind. Known here: convs, norm_groups, " in told
