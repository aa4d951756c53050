"""Deformable convolutions: against mmcv's numbers, against plain ones, and where they may stand."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ldkit.errors import UsageError
from ldkit.models.backbone import Backbone, timm_backbone
from ldkit.models.deform import Deform, DeformConv2d, Version, deform_conv
from tests.models.published import fill, published_detector

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "deform_conv.json").read_text())


def case(name: str) -> dict[str, Tensor]:
    tensors = load_file(GOLDEN / "deform_conv.safetensors")
    own = {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith(f"{name}.")}
    for part in ("x", "offset", "weight"):
        own[part].requires_grad_()
    return own


def convolve(name: str, given: dict[str, Tensor]) -> Tensor:
    facts = CASES[name]
    sizes = [(facts[key],) * 2 for key in ("stride", "padding", "dilation")]
    return deform_conv(given["x"], given["offset"], given["weight"], 1, *sizes)


def outside(height: int, width: int) -> Tensor:
    """Where unmoved taps lie one pixel above or left of the map: [taps, height, width]."""
    row = torch.arange(height)[None, :, None] + torch.arange(3).repeat_interleave(3)[:, None, None]
    column = torch.arange(width)[None, None, :] + torch.arange(3).repeat(3)[:, None, None]
    return (row == 0) | (column == 0)


@pytest.mark.golden
@pytest.mark.parametrize("name", list(CASES))
def test_values_and_gradients_are_mmcv_s(name: str) -> None:
    given = case(name)
    output = convolve(name, given)
    output.backward(given["go"])
    torch.testing.assert_close(output, given["y"], rtol=1e-5, atol=1e-5)
    for part in ("x", "offset", "weight"):
        found, expected = given[part].grad, given[f"grad_{part}"]
        assert found is not None
        if (name, part) == ("zero", "offset"):
            # Exactly on the edge of the padding the derivative jumps; mmcv takes the outer one, 0.
            edge = outside(*found.shape[2:])[:, None].expand(9, 2, -1, -1)
            assert not expected.view(9, 2, *found.shape[2:])[edge].any()
            found = found.view(9, 2, *found.shape[2:]).masked_fill(edge, 0.0).view_as(found)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


def plain_conv(channels: int, groups: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, 2 * channels, 3, stride=stride, padding=1, groups=groups, bias=False)


@pytest.mark.law
@settings(deadline=None, max_examples=20)
@given(
    version=st.sampled_from([1, 2]),
    groups=st.sampled_from([1, 2, 4]),
    stride=st.sampled_from([1, 2]),
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
)
def test_without_offsets_it_is_the_plain_convolution_or_half_of_it(
    version: Version, groups: int, stride: int, size: tuple[int, int]
) -> None:
    plain = plain_conv(4, groups, stride)
    images = torch.randn(2, 4, *size)
    expected = plain(images) * (1.0 if version == 1 else 0.5)
    torch.testing.assert_close(DeformConv2d(plain, version)(images), expected)


@pytest.mark.law
@settings(deadline=None, max_examples=20)
@given(down=st.integers(-3, 3), right=st.integers(-3, 3))
def test_whole_offsets_move_the_map(down: int, right: int) -> None:
    images, weight = torch.randn(1, 2, 12, 12), torch.randn(3, 2, 3, 3)
    field = torch.tensor([float(down), float(right)]).repeat(9).view(1, 18, 1, 1)
    moved = deform_conv(images, field.expand(1, 18, 12, 12), weight, 1)
    still = F.conv2d(images, weight, padding=1)
    # One pixel and the offset away from every border, neither reads outside the map.
    inner = slice(4, 8)
    source = still[:, :, 4 + down : 8 + down, 4 + right : 8 + right]
    torch.testing.assert_close(moved[:, :, inner, inner], source)


@pytest.mark.law
def test_version_2_weighs_each_tap_by_a_sigmoid() -> None:
    images, weight = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3)
    field = torch.zeros(1, 27, 6, 6)
    field[:, 18:] = -99.0
    field[:, 18 + 4] = 1.0  # only the middle tap is left
    found = deform_conv(images, field, weight, 2)
    expected = F.conv2d(images, weight[:, :, 1:2, 1:2]) * torch.tensor(1.0).sigmoid()
    torch.testing.assert_close(found, expected)


@pytest.mark.law
def test_version_2_with_open_taps_is_version_1() -> None:
    images, weight = torch.randn(1, 4, 7, 8), torch.randn(6, 2, 3, 3)
    offset = torch.randn(1, 36, 7, 8)  # two groups of channels, each with offsets of its own
    open_taps = torch.full((1, 18, 7, 8), 99.0)
    both = torch.cat([offset, open_taps], dim=1)
    torch.testing.assert_close(
        deform_conv(images, both, weight, 2), deform_conv(images, offset, weight, 1)
    )


@pytest.mark.law
@pytest.mark.parametrize("version", [1, 2])
def test_offsets_learn_from_their_first_step(version: Version) -> None:
    conv = DeformConv2d(plain_conv(4, 2, 2), version)
    conv(torch.randn(2, 4, 9, 9)).square().sum().backward()
    for parameter in conv.parameters():
        assert parameter.grad is not None
        assert parameter.grad.any()


@pytest.mark.contract
def test_it_keeps_the_weight_and_the_published_names() -> None:
    plain = plain_conv(4, 2, 2)
    conv = DeformConv2d(plain, 2)
    shapes = {name: tuple(value.shape) for name, value in conv.state_dict().items()}
    assert shapes == {
        "weight": (8, 2, 3, 3),
        "conv_offset.weight": (27, 4, 3, 3),
        "conv_offset.bias": (27,),
    }
    assert conv.weight is plain.weight
    assert conv(torch.zeros(1, 4, 9, 7)).shape == (1, 8, 5, 4)
    for wrong in (nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, bias=False)):
        with pytest.raises(ValueError, match="no 3x3 convolution without a bias"):
            DeformConv2d(wrong, 1)


def backbone(name: str, *stages: int, version: Version = 1) -> Backbone:
    return timm_backbone(name, (3, 4, 5), False, 1, True, Deform(stages, version))


def deformable(net: nn.Module) -> list[str]:
    return [name for name, module in net.named_modules() if isinstance(module, DeformConv2d)]


@pytest.mark.contract
@pytest.mark.parametrize(
    ("name", "stages", "counts"),
    [("resnet50", (2, 3, 4), (4, 6, 3)), ("resnext50_32x4d", (4,), (3,))],
)
def test_every_block_of_a_stage_is_deformable_and_no_other(
    name: str, stages: tuple[int, ...], counts: tuple[int, ...]
) -> None:
    found = deformable(backbone(name, *stages).net)
    assert found == [
        f"layer{stage}.{block}.conv2"
        for stage, blocks in zip(stages, counts, strict=True)
        for block in range(blocks)
    ]


@pytest.mark.law
def test_a_backbone_whose_offsets_are_zero_gives_the_maps_of_the_plain_one() -> None:
    plain = timm_backbone("resnext50_32x4d", (3, 4, 5), False, 1, True).net.eval()
    fill(plain)
    changed = backbone("resnext50_32x4d", 3, 4).net.eval()
    missing = changed.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert len(missing) == 2 * (6 + 3)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(changed(images), plain(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# Counted in mmdetection; there `integral.project` is one more entry.
SIZES = [
    ("resnet101", (2, 3, 4), 733, 52_718_837, 52_493_493),
    ("resnext101_32x4d", (), 673, 51_061_209, 50_845_849),
    ("resnext101_32x4d", (3, 4), 725, 53_467_053, 53_251_693),
]


@pytest.mark.golden
@pytest.mark.parametrize(("name", "stages", "entries", "parameters", "trainable"), SIZES)
def test_the_published_detectors_have_the_published_sizes(
    name: str, stages: tuple[int, ...], entries: int, parameters: int, trainable: int
) -> None:
    model = published_detector(name, Deform(stages, 1) if stages else None)
    assert len(model.state_dict()) == entries
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable


@pytest.mark.contract
@pytest.mark.parametrize(
    ("name", "stage"), [("resnet18", 2), ("convnext_atto", 3), ("regnetx_002", 4)]
)
def test_a_backbone_without_bottlenecks_is_refused(name: str, stage: int) -> None:
    with pytest.raises(UsageError) as caught:
        backbone(name, stage)
    assert str(caught.value) == (
        f"{name}: has no bottleneck blocks in stage {stage}, so it cannot be deformable there.\n"
        "Take a ResNet or ResNeXt of 50 layers or more, such as resnet101, or set "
        "backbone.deform: null."
    )


@pytest.mark.contract
def test_a_stage_that_the_pyramid_does_not_reach_is_refused() -> None:
    with pytest.raises(UsageError, match="has no bottleneck blocks in stage 4"):
        timm_backbone("resnet50", (3, 4), False, 1, True, Deform((3, 4), 1))
