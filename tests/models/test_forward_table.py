"""Whole networks filled with a sine, against a table made with mmdetection."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from ldkit.models.gfl import Detector
from tests.models.published import published_detector

COUNTS = (320, 80, 20, 6, 2)


class Row(NamedTuple):
    """Means of C3..C5, mean absolutes of the rest, and the first four logits of P3."""

    tensors: int
    maps: tuple[float, ...]
    pyramid: tuple[float, ...]
    cls: tuple[float, ...]
    bbox: tuple[float, ...]
    first_cls: tuple[float, ...]
    first_bbox: tuple[float, ...]
    noise: float = 5e-4
    """How far float32 may be from float64 in the mean of a level's logits, relative."""


TABLE = {
    "resnet18": Row(
        tensors=149,
        maps=(0.086872, 0.030946, 0.059114),
        pyramid=(0.049920, 0.017397, 0.013445, 0.006643, 0.006344),
        cls=(0.099667, 0.083654, 0.066448, 0.114991, 0.063309),
        bbox=(0.055716, 0.055760, 0.051109, 0.016636, 0.029545),
        first_cls=(0.04522, 0.07773, 0.10809, 0.11855),
        first_bbox=(0.00869, -0.01074, -0.04163, -0.05322),
    ),
    "resnet50": Row(
        tensors=314,
        maps=(0.067685, 0.131926, 0.105203),
        pyramid=(0.013786, 0.011467, 0.017611, 0.006402, 0.006355),
        cls=(0.058159, 0.049404, 0.030842, 0.030167, 0.017676),
        bbox=(0.093034, 0.084895, 0.134838, 0.091915, 0.064615),
        first_cls=(0.07007, 0.08747, 0.06824, 0.03855),
        first_bbox=(0.02015, 0.03687, 0.05890, 0.07049),
    ),
    "resnext101_32x4d": Row(
        tensors=569,
        maps=(0.089860, 0.749400, 0.184433),
        pyramid=(0.065019, 0.061600, 0.026203, 0.006797, 0.006390),
        cls=(0.077779, 0.072022, 0.058412, 0.027746, 0.019643),
        bbox=(0.089586, 0.095093, 0.066451, 0.017126, 0.023187),
        first_cls=(0.07211, 0.15171, 0.19594, 0.18214),
        first_bbox=(0.03729, 0.11669, 0.17375, 0.16257),
        noise=2.5e-2,
    ),
}


def fill_with_sines(model: Detector) -> int:
    """Fill every tensor in its order in the state; return how many there were."""
    names = [n for n in model.state_dict() if not n.endswith("num_batches_tracked")]
    state = {}
    for number, name in enumerate(names):
        shape = model.state_dict()[name].shape
        index = torch.arange(shape.numel(), dtype=torch.float64)
        wave = torch.sin(0.37 * index + 0.11 * number).reshape(shape)
        state[name] = _value(name, wave).float()
    model.load_state_dict(state, strict=False)
    return len(names)


def _value(name: str, wave: Tensor) -> Tensor:
    if wave.ndim == 4:
        return (2.0 / wave[0].numel()) ** 0.5 * wave
    if name.endswith("running_var"):
        return 1 + 0.2 * wave
    if name.startswith("head.scales"):
        return 1 + 0.05 * wave
    is_norm = any(part in name for part in ("bn", "norm", "downsample.1"))
    if is_norm and name.endswith("weight"):
        return 1 + 0.1 * wave
    return (0.1 if is_norm else 0.01) * wave


def close(found: list[float], expected: tuple[float, ...], rel: float) -> None:
    assert found == pytest.approx(list(expected), abs=6e-6 if rel > 1e-4 else 6e-7, rel=rel)


@pytest.mark.golden
@pytest.mark.parametrize("name", list(TABLE))
def test_a_whole_network_gives_the_numbers_of_the_reference(name: str) -> None:
    row = TABLE[name]
    model = published_detector(name).eval()
    assert fill_with_sines(model) == row.tensors
    wave = torch.sin(0.01 * torch.arange(3 * 128 * 160, dtype=torch.float64))
    image = wave.float().reshape(1, 3, 128, 160)
    with torch.no_grad():
        maps = model.backbone(image)
        pyramid = model.fpn(maps)
        logits = model(image)
    cls = logits.cls_logits[0].split(COUNTS)
    bbox = logits.bbox_logits[0].split(COUNTS)
    close([x.mean().item() for x in maps], row.maps, 1e-5)
    close([x.abs().mean().item() for x in pyramid], row.pyramid, 1e-5)
    # Sines leave GroupNorm little to divide by: float64 differs from float32 by 3e-4 here (by 2e-2
    # on P6 of the ResNeXt), and by up to 1e-3 at single logits.
    close([x.abs().mean().item() for x in cls], row.cls, row.noise)
    close([x.abs().mean().item() for x in bbox], row.bbox, row.noise)
    close(logits.cls_logits[0, :4, 0].tolist(), row.first_cls, 2e-3)
    close(logits.bbox_logits[0, :4, 0, 0].tolist(), row.first_bbox, 2e-3)
