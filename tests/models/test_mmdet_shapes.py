"""The architecture is what the shapes say, for every published network."""

import pytest
import torch

from ldkit.errors import CheckpointError
from ldkit.models.deform import Deform
from ldkit.models.mmdet_shapes import Architecture, Quality, read_architecture
from tests.models.mmdet_files import published_state, small_detector
from tests.models.published import published_detector

Shapes = dict[str, tuple[int, ...]]

NETWORKS = {
    "resnet18": None,
    "resnet34": None,
    "resnet50": None,
    "resnet101": None,
    "resnext101_32x4d": None,
    "resnext101_64x4d": None,
    "resnext50_32x4d": None,
    "resnet101 dcn": Deform((2, 3, 4), 1),
    "resnet50 dcn": Deform((3, 4), 2),
    "resnext101_32x4d dcn": Deform((3, 4), 1),
}


@pytest.fixture(scope="module")
def small() -> Shapes:
    with torch.device("meta"):
        return shapes_of(published_state(small_detector()))


def shapes_of(state: dict[str, torch.Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def refusal(shapes: Shapes) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_architecture(shapes, "x.pth")
    assert caught.value.where == "x.pth"
    assert "Known are ResNet-18 to 152 and ResNeXt" in caught.value.hint
    return caught.value.message.removeprefix("cannot be a GFL detector on a ResNet or ResNeXt: ")


@pytest.mark.law
@pytest.mark.parametrize(("network", "deform"), NETWORKS.items())
def test_a_published_network_is_read_off_its_shapes(network: str, deform: Deform | None) -> None:
    name = network.removesuffix(" dcn")
    with torch.device("meta"):
        shapes = shapes_of(published_state(published_detector(name, deform)))
    assert read_architecture(shapes, "x.pth") == Architecture(
        backbone=name,
        deform_stages=() if deform is None else deform.stages,
        deform_version=0 if deform is None else deform.version,
        channels=256,
        levels=(3, 4, 5, 6, 7),
        convs=4,
        reg_max=16,
        num_classes=80,
    )


@pytest.mark.law
@pytest.mark.parametrize(
    ("name", "deform"), [("resnet50", None), ("resnet101", Deform((2, 3, 4), 1))]
)
def test_a_published_gflv2_is_read_off_its_shapes(name: str, deform: Deform | None) -> None:
    with torch.device("meta"):
        model = published_detector(name, deform, has_quality=True)
        found = read_architecture(shapes_of(published_state(model)), "x.pth")
    assert found.head == "gflv2"
    assert found.quality == Quality(topk=4, channels=64)
    assert found.num_classes == 81  # rows: the spare one counts until it is left out
    assert (found.backbone, found.reg_max) == (name, 16)
    assert found.deform_stages == (() if deform is None else deform.stages)


@pytest.mark.contract
def test_the_head_and_the_pyramid_are_read_off_their_shapes(small: Shapes) -> None:
    found = read_architecture(small, "x.pth")
    assert found == Architecture("resnet18", (), 0, 32, (3, 4, 5, 6, 7), 2, 8, 3, None)
    assert found.head == "gfl"
    finer = small | {"neck.lateral_convs.0.conv.weight": (32, 64, 1, 1)}
    assert read_architecture(finer, "x.pth").levels == (2, 3, 4, 5, 6)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bbox_head.gfl_reg.weight": (70, 32, 3, 3)}, "bbox_head.gfl_reg.weight has 70 rows, but"),
        ({"bbox_head.gfl_reg.weight": (4, 32, 3, 3)}, "bbox_head.gfl_reg.weight has 4 rows, but"),
        ({"bbox_head.gfl_reg.weight": None}, "bbox_head.gfl_reg.weight is missing."),
        ({"bbox_head.gfl_cls.weight": (80,)}, "bbox_head.gfl_cls.weight has the shape (80,), but"),
        (
            {"neck.lateral_convs.0.conv.weight": (32, 96, 1, 1)},
            "its pyramid takes 96 channels, its stages give [64, 128, 256, 512].",
        ),
        (
            {"backbone.layer3.2.conv1.weight": (256, 256, 3, 3)},
            "its four stages have (2, 2, 3, 2) blocks of 2 convolutions.",
        ),
        (
            {"backbone.layer1.0.conv2.weight": (128, 128, 3, 3)},
            "the first 3x3 convolution of its stage 1 is of 128 channels.",
        ),
        (
            {"backbone.layer2.0.conv2.conv_offset.weight": (20, 128, 3, 3)},
            "its deformable convolutions have [20] rows of offsets; 18 (version 1) or 27 (version",
        ),
        (
            {"bbox_head.reg_conf.0.weight": (64, 18, 1, 1)},
            "bbox_head.reg_conf.0.weight takes 18 values, but as many of each of four edges are",
        ),
        (
            {"bbox_head.reg_conf.0.weight": (64, 4, 1, 1)},
            "bbox_head.reg_conf.0.weight takes 4 values, but",
        ),
        ({"bbox_head.reg_conf.2.bias": (1,)}, "bbox_head.reg_conf.0.weight is missing."),
    ],
)
def test_shapes_of_no_known_network_are_told(
    small: Shapes, changes: dict[str, tuple[int, ...] | None], said: str
) -> None:
    changed = {name: shape for name, shape in (small | changes).items() if shape is not None}
    assert refusal(changed).startswith(said)


@pytest.mark.contract
def test_another_backbone_is_told(small: Shapes) -> None:
    others = {name: shape for name, shape in small.items() if not name.startswith("backbone.")}
    others["backbone.patch_embed.projection.weight"] = (96, 3, 4, 4)
    assert refusal(others) == (
        "its backbone has no stages layer1 to layer4, but backbone.patch_embed.projection.weight."
    )
