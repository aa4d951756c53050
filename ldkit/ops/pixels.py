"""Pixels as the network sees them."""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

MEAN = (123.675, 116.28, 103.53)
"""Mean of ImageNet's red, green and blue, in grey levels. Source: torchvision's weights."""

STD = (58.395, 57.12, 57.375)
"""Their standard deviations, in grey levels."""


def normalise(
    pixels: UInt8[Tensor, "B 3 H W"], resized_hw: Int[Tensor, "B 2"]
) -> Float[Tensor, "B 3 H W"]:
    """Return (pixel - mean) / std of RGB images, and zero beyond each image's `resized_hw`.

    Zero, not black: the padding is filled after normalising, as published.
    """
    device = pixels.device
    mean = torch.tensor(MEAN, device=device)[:, None, None]
    std = torch.tensor(STD, device=device)[:, None, None]
    rows_H = torch.arange(pixels.shape[2], device=device)
    cols_W = torch.arange(pixels.shape[3], device=device)
    above_BH = rows_H < resized_hw[:, :1]
    left_BW = cols_W < resized_hw[:, 1:]
    inside_BHW = above_BH[:, :, None] & left_BW[:, None, :]
    return pixels.float().sub_(mean).div_(std).masked_fill_(~inside_BHW[:, None], 0.0)
