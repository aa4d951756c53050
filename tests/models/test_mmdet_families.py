"""Checkpoints of other detectors are refused by the names of their tensors."""

import pytest

from ldkit.errors import CheckpointError
from ldkit.models.mmdet_families import refuse_other_families

RESNET = ["backbone.conv1.weight", "backbone.layer1.0.conv1.weight"]
NECK = ["neck.lateral_convs.0.conv.weight"]
GFL = ["bbox_head.gfl_cls.weight", "bbox_head.gfl_reg.weight"]

OTHERS = {
    "FCOS": [*RESNET, *NECK, "bbox_head.conv_cls.weight", "bbox_head.conv_centerness.weight"],
    "ATSS": [*RESNET, *NECK, "bbox_head.atss_cls.weight", "bbox_head.atss_centerness.weight"],
    "RetinaNet": [*RESNET, *NECK, "bbox_head.retina_cls.weight"],
    "VarifocalNet": [*RESNET, *NECK, "bbox_head.vfnet_cls.weight"],
    "TOOD": [*RESNET, *NECK, "bbox_head.tood_cls.weight"],
    "a two-stage detector (R-CNN)": [
        *RESNET,
        *NECK,
        "rpn_head.rpn_conv.weight",
        "roi_head.bbox_head.fc_cls.weight",
    ],
    "YOLO": ["backbone.stem.conv.conv.weight", "bbox_head.multi_level_conv_cls.0.weight"],
    "DETR": [*RESNET, "bbox_head.transformer.encoder.layers.0.norms.0.weight"],
    "a detector of torchvision": ["backbone.body.conv1.weight", "rpn.head.conv.0.0.weight"],
    "a classification network": ["conv1.weight", "layer1.0.conv1.weight", "fc.weight", "fc.bias"],
}
MORE = {
    "YOLO": ["model.0.conv.weight", "model.22.cv2.0.0.conv.weight"],
    "DETR": ["transformer.encoder.layers.0.linear1.weight", "class_embed.weight"],
    "a classification network": ["backbone.conv1.weight", "head.fc.weight"],
    "a two-stage detector (R-CNN)": ["backbone.stem.conv1.weight", "roi_heads.box_head.fc1.weight"],
}


def refusal(names: list[str]) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        refuse_other_families(names, "x.pth")
    assert caught.value.where == "x.pth"
    return caught.value


@pytest.mark.contract
@pytest.mark.parametrize(("family", "names"), [*OTHERS.items(), *MORE.items()])
def test_another_family_is_named_with_what_was_seen_and_expected(
    family: str, names: list[str]
) -> None:
    error = refusal(names)
    assert error.message.startswith(f"is not a GFL detector but {family}: it has ")
    assert error.message.endswith(", and no bbox_head.gfl_cls.weight.")
    assert any(f"it has {name}," in error.message for name in names)
    assert error.hint.startswith("`ldkit teacher import` reads GFL, GFLv2 and LD checkpoints")


@pytest.mark.contract
def test_what_is_no_known_family_is_described() -> None:
    message = refusal(["a.weight", "b.weight", "c.weight", "d.weight"]).message
    assert message == (
        "is not a GFL detector: it has 4 tensors (a.weight, b.weight, c.weight, …), but no "
        "bbox_head.gfl_cls.weight."
    )


@pytest.mark.contract
def test_gfl_and_gflv2_are_let_through() -> None:
    refuse_other_families([*RESNET, *NECK, *GFL], "x.pth")
    refuse_other_families([*RESNET, *NECK, *GFL, "bbox_head.reg_conf.0.weight"], "x.pth")
