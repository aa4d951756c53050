"""Backbones: maps at the right strides, and frozen parts that nothing can move."""

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ldkit.errors import UsageError
from ldkit.models.backbone import SHORT_NAMES, Backbone, small_backbone, timm_backbone
from ldkit.models.fpn import Fpn
from ldkit.models.gfl import Detector, GflHead
from ldkit.structures import Grid
from tests.models.published import fill

# One network of each way in which timm makes feature maps, all small.
FAMILIES = (
    "test_resnet",
    "convnext_atto",
    "mobilenetv3_small_050",
    "regnetx_002",
    "ghostnet_050",
    "mambaout_femto",
)


def build(
    name: str, *, levels: tuple[int, ...], stages: int = 0, batchnorm: bool = False
) -> Backbone:
    return timm_backbone(name, levels, False, stages, batchnorm)


def detector(backbone: Backbone, levels: tuple[int, ...]) -> Detector:
    grid = Grid(strides=tuple(2**level for level in levels), anchor_scale=8.0)
    return Detector(backbone, Fpn(backbone.channels, 8, levels), GflHead(8, 3, 1, 4, 4, grid))


def learn_something(model: Detector) -> None:
    """Take one large step on noise."""
    predictions = model(torch.randn(2, 3, 64, 96))
    loss = predictions.cls_logits.square().mean() + predictions.bbox_logits.square().mean()
    loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()


@torch.no_grad()
def maps(model: Detector, images: Tensor) -> list[Tensor]:
    model.eval()
    found = list(model.backbone(images))
    model.train()
    return found


@pytest.mark.law
@pytest.mark.parametrize("name", [*FAMILIES, "cspnext_s"])
@pytest.mark.parametrize("levels", [(2, 3, 4, 5), (3, 4, 5, 6, 7), (3, 4)])
def test_every_level_has_a_map_of_its_stride_and_channels(
    name: str, levels: tuple[int, ...]
) -> None:
    backbone = build(name, levels=levels)
    shapes = [tuple(x.shape) for x in backbone.net.eval()(torch.zeros(1, 3, 96, 64))]
    wanted = [level for level in levels if level <= 5]
    assert shapes == [
        (1, channels, 96 // 2**level, 64 // 2**level)
        for channels, level in zip(backbone.channels, wanted, strict=True)
    ]


@pytest.mark.law
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("stages", [1, 2])
def test_frozen_stages_give_the_same_map_after_training(name: str, stages: int) -> None:
    levels = (2, 3, 4, 5)
    model = detector(build(name, levels=levels, stages=stages), levels)
    images = torch.randn(1, 3, 64, 64)
    before = maps(model, images)
    learn_something(model)
    after = maps(model, images)
    for frozen in range(stages):
        assert torch.equal(before[frozen], after[frozen])
    assert not torch.allclose(before[stages], after[stages])


@pytest.mark.law
def test_without_frozen_stages_everything_learns() -> None:
    model = detector(build("test_resnet", levels=(3, 4, 5)), (3, 4, 5))
    fill(model)
    before = copy.deepcopy(model.state_dict())
    learn_something(model)
    assert all(not torch.equal(before[k], v) for k, v in model.state_dict().items() if v.ndim == 4)


@pytest.mark.law
def test_frozen_batchnorm_keeps_its_statistics_and_learns_its_scale() -> None:
    model = detector(build("test_resnet", levels=(3, 4, 5), batchnorm=True), (3, 4, 5))
    fill(model)
    nn.Sequential(model).train(mode=False).train()  # as a wrapper would do it
    before = copy.deepcopy(model.backbone.state_dict())
    learn_something(model)
    after = model.backbone.state_dict()
    for key, value in before.items():
        is_statistic = "running" in key or "tracked" in key
        assert torch.equal(value, after[key]) == is_statistic, key
    assert model.training
    assert not any(m.training for m in model.backbone.modules() if isinstance(m, _BatchNorm))


@pytest.mark.law
def test_statistics_of_frozen_stages_stay_where_other_batchnorms_count() -> None:
    backbone = build("test_resnet", levels=(3, 4, 5), stages=1)
    model = detector(backbone, (3, 4, 5))
    fill(model)
    before = copy.deepcopy(model.backbone.state_dict())
    learn_something(model)
    still = {
        k.split(".")[0] for k, v in model.backbone.state_dict().items() if torch.equal(v, before[k])
    }
    assert still == {"conv1", "bn1", "layer1"}
    assert not any(model.backbone.get_submodule(name).training for name in backbone.frozen.modules)


@pytest.mark.law
def test_a_copy_of_a_detector_keeps_its_frozen_parts() -> None:
    model = detector(build("test_resnet", levels=(3, 4, 5), stages=1, batchnorm=True), (3, 4, 5))
    twin = copy.deepcopy(model).train()
    assert not any(m.training for m in twin.backbone.modules() if isinstance(m, _BatchNorm))
    assert not any(p.requires_grad for p in twin.backbone.get_submodule("layer1").parameters())


@pytest.mark.golden
@pytest.mark.parametrize("short", ["r18", "r50"])
def test_short_names_stand_for_networks_with_torchvision_names(short: str) -> None:
    net = build(SHORT_NAMES[short], levels=(3, 4, 5), stages=1, batchnorm=True).net
    names = set(net.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer2.0.downsample.1.bias"} <= names
    assert {k.split(".")[0] for k in names} == {"conv1", "bn1", *(f"layer{i}" for i in range(1, 5))}


@pytest.mark.law
@settings(deadline=None, max_examples=15)
@given(
    width=st.integers(1, 33),
    depth=st.integers(1, 2),
    levels=st.sampled_from([(2, 3, 4, 5), (3, 4, 5, 6), (4, 5), (3, 4)]),
)
def test_small_backbones_exist_in_every_width(
    width: int, depth: int, levels: tuple[int, ...]
) -> None:
    backbone = small_backbone(width, depth, levels)
    wanted = [level for level in levels if level <= 5]
    assert backbone.channels == tuple(width * (0, 0, 1, 2, 4, 4)[level] for level in wanted)
    shapes = [tuple(x.shape[2:]) for x in backbone.net.eval()(torch.zeros(1, 3, 70, 50))]
    assert shapes == [(-(-70 // 2**level), -(-50 // 2**level)) for level in wanted]


@pytest.mark.law
@pytest.mark.parametrize("width", [1, 4, 8, 16, 24])
def test_small_detectors_have_no_convolution_that_crashes_in_channels_last(width: int) -> None:
    # The backward pass of a strided 1x1 convolution of 8 channels crashes some builds of torch.
    model = detector(small_backbone(width, 1, (3, 4, 5, 6)), (3, 4, 5, 6))
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert not [conv for conv in convs if conv.kernel_size == (1, 1) and conv.stride != (1, 1)]
    model = model.to(memory_format=torch.channels_last)
    predictions = model(torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last))
    (predictions.cls_logits.sum() + predictions.bbox_logits.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.contract
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("r18", "Did you mean resnet18?"),
        ("restnet50", "Did you mean resnet50, "),
        ("resnet18.tv_in2k", "Did you mean resnet18.tv_in1k, "),
        ("hf-hub:someone/thing", "`timm.list_models()` lists the names."),
    ],
)
def test_unknown_names_are_refused_with_close_ones(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(name, levels=(3, 4, 5))
    assert caught.value.where == name
    assert caught.value.message == "is no backbone of timm."
    assert caught.value.hint.startswith(hint)


@pytest.mark.contract
def test_a_network_without_stages_is_refused_with_the_strides_it_has() -> None:
    with pytest.raises(UsageError, match=r"strides \[16, 16, .* needs \[8, 16, 32\]"):
        build("test_vit", levels=(3, 4, 5, 6, 7))


@pytest.mark.contract
def test_a_network_of_one_image_size_is_refused() -> None:
    with pytest.raises(UsageError, match=r"does not take images of any size \(timm: Input height"):
        build("swin_tiny_patch4_window7_224", levels=(3, 4, 5))


@pytest.mark.contract
@pytest.mark.parametrize(("name", "stages"), [("cspnext_s", 1), ("hrnet_w18_small", 2)])
def test_stages_that_timm_does_not_name_cannot_be_frozen(name: str, stages: int) -> None:
    with pytest.raises(UsageError, match=f"cannot have {stages} frozen stages") as caught:
        build(name, levels=(3, 4, 5), stages=stages)
    assert "frozen_stages: 0" in caught.value.hint
    assert timm.is_model(name)
