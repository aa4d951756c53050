"""What GFLv2 adds to a GFL head: scores weighed by how sure the edges of a box are.

Axes: B images · A locations · C classes · K bins · T largest bins of an edge.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class EdgeQuality(nn.Module):
    """The quality of a box, read off the shapes of its four distributions.

    Each edge gives its T largest probabilities and their mean. A peaked distribution speaks for a
    well placed edge. Its gradient reaches the distributions.

    Source: GFLv2 (arXiv 2011.12885); details as in its published `GFocalHead`.
    """

    def __init__(self, topk: int, channels: int) -> None:
        """Build two 1x1 convolutions with `channels` between them."""
        super().__init__()
        self.topk = topk
        self.layers = nn.Sequential(
            nn.Conv2d(4 * (topk + 1), channels, 1), nn.ReLU(inplace=True), nn.Conv2d(channels, 1, 1)
        )
        for parameter in self.parameters():
            if parameter.ndim == 4:
                nn.init.normal_(parameter, std=0.01)
            else:
                nn.init.zeros_(parameter)

    def forward(self, bbox_logits: Float[Tensor, "B A 4 K"]) -> Float[Tensor, "B A 1"]:
        """Return the logit of each location's quality."""
        top_BA4T = bbox_logits.softmax(dim=-1).topk(self.topk, dim=-1).values
        statistics = torch.cat([top_BA4T, top_BA4T.mean(dim=-1, keepdim=True)], dim=-1).flatten(2)
        quality: Tensor = self.layers(statistics.mT.unsqueeze(-1))
        return quality.squeeze(-1).mT


def weighed_logits(
    cls_logits: Float[Tensor, "*b C"], quality_logits: Float[Tensor, "*b 1"]
) -> Float[Tensor, "*b C"]:
    """Return the logits of the products of scores: of the class, and of the quality.

    With z and r the two logits, the product's odds are 1 / (e^-z + e^-r + e^-(z+r)). No part of
    it is rounded to 0 or 1, so that logits of any size keep their value and their gradient.
    """
    return -torch.logaddexp(-cls_logits, -quality_logits - F.logsigmoid(cls_logits))
