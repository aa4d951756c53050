"""The GFL head and the detector: images in, raw logits at every location out.

Axes: B images · D channels · A locations · C classes · 4 = left, top, right, bottom · K bins.
The module knows no losses, targets or boxes, and returns the same in training and evaluation.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldkit.models.backbone import Backbone
from ldkit.models.fpn import Fpn
from ldkit.structures import Grid, Predictions

PRIOR = 0.01  # score of every class before training (focal loss, arXiv 1708.02002)


class GflHead(nn.Module):
    """Two towers, shared by all levels, and two convolutions that read them.

    Each box edge is a distribution over reg_max + 1 bins, given as logits. One learned scalar
    per level scales those logits. GroupNorm sees one level of one image at a time, with its
    padding: so logits depend on the canvas an image is padded to.

    Source: GFL (arXiv 2006.04388); details as in mmdetection's GFLHead.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        convs: int,
        norm_groups: int,
        reg_max: int,
        grid: Grid,
    ) -> None:
        """Build the head.

        Args:
            channels: Channels of the pyramid, and of the towers.
            num_classes: Classes, without a background.
            convs: Convolutions of each tower.
            norm_groups: Groups of their GroupNorm; divides `channels`.
            reg_max: Largest distance, in bins.
            grid: The levels, one stride each, and what a bin means.
        """
        super().__init__()
        self.channels = channels
        self.num_classes = num_classes
        self.num_bins = reg_max + 1
        self.grid = grid
        self.cls_tower = _tower(channels, convs, norm_groups)
        self.bbox_tower = _tower(channels, convs, norm_groups)
        self.cls_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.bbox_logits = nn.Conv2d(channels, 4 * self.num_bins, 3, padding=1)
        self.scales = nn.ParameterList(nn.Parameter(torch.tensor(1.0)) for _ in grid.strides)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 4:
                nn.init.normal_(parameter, std=0.01)
            elif name.endswith("logits.bias"):
                nn.init.zeros_(parameter)
        nn.init.constant_(self.get_parameter("cls_logits.bias"), -math.log((1 - PRIOR) / PRIOR))

    def forward(self, maps: Sequence[Float[Tensor, "B D _ _"]]) -> Predictions:
        """Return the logits of all levels, one map for each, fine first."""
        cls_logits, bbox_logits = [], []
        for map_BDHW, scale in zip(maps, self.scales, strict=True):
            cls_BCHW = self.cls_logits(self.cls_tower(map_BDHW))
            bbox_BHW = self.bbox_logits(self.bbox_tower(map_BDHW)) * scale
            cls_logits.append(cls_BCHW.permute(0, 2, 3, 1).flatten(1, 2))
            bbox_logits.append(
                bbox_BHW.permute(0, 2, 3, 1).flatten(1, 2).unflatten(2, (4, self.num_bins))
            )
        return Predictions(torch.cat(cls_logits, dim=1), torch.cat(bbox_logits, dim=1))


def _tower(channels: int, convs: int, norm_groups: int) -> nn.Sequential:
    def layer() -> nn.Sequential:
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        norm = nn.GroupNorm(norm_groups, channels)
        return nn.Sequential(OrderedDict(conv=conv, norm=norm, act=nn.ReLU(inplace=True)))

    return nn.Sequential(*(layer() for _ in range(convs)))


class Detector(nn.Module):
    """A backbone, a pyramid and a head.

    `grid`, `num_classes` and `num_bins` say how to read the predictions.
    """

    def __init__(self, backbone: Backbone, fpn: Fpn, head: GflHead) -> None:
        """Join ready-made parts, which must fit each other."""
        super().__init__()
        if backbone.channels != fpn.in_channels:
            raise ValueError(f"backbone gives {backbone.channels}, fpn takes {fpn.in_channels}")
        if fpn.channels != head.channels:
            raise ValueError(f"fpn gives {fpn.channels} channels, head takes {head.channels}")
        if fpn.strides != head.grid.strides:
            raise ValueError(f"fpn has strides {fpn.strides}, head {head.grid.strides}")
        self.backbone = backbone.net
        self.fpn = fpn
        self.head = head
        self.grid = head.grid
        self.num_classes = head.num_classes
        self.num_bins = head.num_bins
        self._frozen = backbone.frozen
        self.train()

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Predictions:
        """Return raw logits at every location of the canvas, for normalised RGB images."""
        predictions: Predictions = self.head(self.fpn(self.backbone(images)))
        return predictions

    def train(self, mode: bool = True) -> "Detector":
        """Switch to training (or evaluation); the frozen parts stay in evaluation."""
        super().train(mode)
        self._frozen.hold(self.backbone)
        return self
