"""Boxes as (x1, y1, x2, y2): their areas, overlaps and bounds.

A box covers x2 - x1 by y2 - y1; there is no extra pixel. Overlaps do not depend on the unit as
long as both boxes use the same one. `N`, `M` are any two counts of boxes.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ldkit.structures import Size

EPSILON = 1e-6
"""Least union and enclosing area, so that empty boxes give 0 and not 0 / 0.

Source: the published overlap helper, `eps` of mmdet's `bbox_overlaps`.
"""


def area(boxes: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b"]:
    """Return width times height; negative for a box that is inside out along one axis."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1) * (y2 - y1)


def pairwise_iou(
    first: Float[Tensor, "*b N 4"], second: Float[Tensor, "*b M 4"]
) -> Float[Tensor, "*b N M"]:
    """Return the intersection over union of every box with every other, from 0 to 1."""
    return _iou(first[..., :, None, :], second[..., None, :, :])


def paired_iou(first: Float[Tensor, "*b 4"], second: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b"]:
    """Return the intersection over union of each box with its partner, from 0 to 1."""
    return _iou(first, second)


def paired_giou(first: Float[Tensor, "*b 4"], second: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b"]:
    """Return the generalized IoU of each box with its partner, from -1 to 1.

    It is the IoU less the share of the enclosing box that neither covers, so that boxes which
    do not touch still attract each other.

    Source: GIoU (arXiv 1902.09630), equation 1; floors of the areas as in `EPSILON`.
    """
    inter, union = _intersection_and_union(first, second)
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    enclosing = (high - low).clamp(min=0).prod(-1).clamp(min=EPSILON)
    return inter / union - (enclosing - union) / enclosing


def paired_diou(first: Float[Tensor, "*b 4"], second: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b"]:
    """Return the distance IoU of each box with its partner, from -1 to 1.

    It is the IoU less the squared distance of the centres, as a share of the squared diagonal of
    the enclosing box.

    Source: DIoU (arXiv 1911.08287), equation 7; floors as in `EPSILON`.
    """
    return _iou(first, second) - _centre_penalty(first, second)


def paired_diou_over_first(
    first: Float[Tensor, "*b 4"], second: Float[Tensor, "*b 4"]
) -> Float[Tensor, "*b"]:
    """Return what the published LD code computes for a DIoU: the first area stands for the union.

    Source: `bbox_overlaps(mode="diou")` of the LD repository, commit 4287990c.
    """
    inter, _ = _intersection_and_union(first, second)
    return inter / area(first).clamp(min=EPSILON) - _centre_penalty(first, second)


def clip(boxes: Float[Tensor, "*b 4"], hw: Size) -> Float[Tensor, "*b 4"]:
    """Return the part of each box inside an image of `hw` (height, width) pixels.

    A box wholly outside becomes one without width or height on the border.
    """
    height, width = hw
    limit = boxes.new_tensor([width, height, width, height])
    return boxes.clamp(min=0).minimum(limit)


def mirror(boxes: Float[Tensor, "*b 4"], width: int) -> Float[Tensor, "*b 4"]:
    """Return the boxes of the image turned left to right, `width` its width in pixels."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=-1)


def xyxy_to_xywh(boxes: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Return (x1, y1, width, height), the form of COCO files."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], dim=-1)


def xywh_to_xyxy(boxes: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Return (x1, y1, x2, y2) of boxes given as (x1, y1, width, height)."""
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], dim=-1)


def _iou(first: Tensor, second: Tensor) -> Tensor:
    inter, union = _intersection_and_union(first, second)
    return inter / union


def _centre_penalty(first: Tensor, second: Tensor) -> Tensor:
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    diagonal = (high - low).clamp(min=0).square().sum(-1).clamp(min=EPSILON)
    # Four times the squared distance of the centres.
    apart = (second[..., :2] + second[..., 2:]) - (first[..., :2] + first[..., 2:])
    return apart.square().sum(-1) / 4 / diagonal


def _intersection_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    union = (area(first) + area(second) - inter).clamp(min=EPSILON)
    return inter, union
