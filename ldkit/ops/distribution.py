"""A box edge as a distribution over distances.

Each edge (left, top, right, bottom) of a location has K = reg_max + 1 logits, one for each of
the distances 0, 1, …, reg_max. Distances are counted in bins from the location's centre outward;
a bin is `Anchors.unit` pixels wide. Everything here is in bins: divide pixels by the unit first.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def project(bbox_logits: Float[Tensor, "*b 4 K"]) -> Float[Tensor, "*b 4"]:
    """Return the mean distance of each edge, in bins, from 0 to K - 1.

    Adding a constant to the logits of an edge changes nothing.

    Source: GFL (arXiv 2006.04388), equation 4.
    """
    bins_K = torch.arange(bbox_logits.shape[-1], device=bbox_logits.device, dtype=bbox_logits.dtype)
    return bbox_logits.softmax(dim=-1) @ bins_K


def distances_to_boxes(
    centre: Float[Tensor, "*b 2"], distances: Float[Tensor, "*b 4"]
) -> Float[Tensor, "*b 4"]:
    """Return the box whose edges lie at `distances` from `centre`, in the same unit."""
    return torch.cat([centre - distances[..., :2], centre + distances[..., 2:]], dim=-1)


def boxes_to_distances(
    centre: Float[Tensor, "*b 2"], boxes: Float[Tensor, "*b 4"]
) -> Float[Tensor, "*b 4"]:
    """Return how far each edge is from `centre`; negative where the centre lies beyond it."""
    return torch.cat([centre - boxes[..., :2], boxes[..., 2:] - centre], dim=-1)


def two_bin_target(distances: Float[Tensor, "*b"], num_bins: int) -> Float[Tensor, "*b K"]:
    """Return the distribution on the two bins beside each distance that has it as its mean.

    Distances are in bins, from 0 to `num_bins` - 1.

    Source: GFL (arXiv 2006.04388), equation 6.
    """
    left = distances.floor().clamp(0, num_bins - 2)
    share = (distances - left)[..., None]
    target = distances.new_zeros(*distances.shape, num_bins)
    left_index = left.long()[..., None]
    target.scatter_(-1, left_index, 1 - share)
    return target.scatter_(-1, left_index + 1, share)


def entropy(bbox_logits: Float[Tensor, "*b 4 K"]) -> Float[Tensor, "*b 4"]:
    """Return the entropy of each edge in nats: 0 for one sure bin, ln K for no idea at all."""
    log_probs = bbox_logits.log_softmax(dim=-1)
    return -(log_probs.exp() * log_probs).sum(dim=-1)
