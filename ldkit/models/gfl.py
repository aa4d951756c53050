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
from torch.nn import functional as F

from ldkit.models.backbone import Backbone
from ldkit.models.fpn import Fpn
from ldkit.models.quality import EdgeQuality, weighed_logits
from ldkit.structures import Grid, Predictions

PRIOR = 0.01  # score of every class before training (focal loss, arXiv 1708.02002)


class GflHead(nn.Module):
    """Two towers, shared by all levels, and two convolutions that read them.

    Each box edge is a distribution over reg_max + 1 bins, given as logits. One learned scalar
    per level scales those logits. GroupNorm sees one level of one image at a time, with its
    padding: so logits depend on the canvas an image is padded to.

    With a `quality` it is the head of GFLv2: the same but for its scores.

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
        quality: EdgeQuality | None = None,
    ) -> None:
        """Build the head.

        Args:
            channels: Channels of the pyramid, and of the towers.
            num_classes: Classes, without a background.
            convs: Convolutions of each tower.
            norm_groups: Groups of their GroupNorm; divides `channels`.
            reg_max: Largest distance, in bins.
            grid: The levels, one stride each, and what a bin means.
            quality: Weighs the scores by the distributions, as GFLv2 does.
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
        self.quality = quality
        nn.init.constant_(self.get_parameter("cls_logits.bias"), -math.log((1 - PRIOR) / PRIOR))

    def forward(
        self, maps: Sequence[Float[Tensor, "B D _ _"]], cross_after: int | None = None
    ) -> Predictions:
        """Return the logits of all levels, one map for each, fine first, with the maps.

        With `cross_after` the features after that convolution of both towers come with them, as
        `from_crossing` takes them. Without it, no feature outlives its level.

        Raises:
            ValueError: The towers have no such convolution.
        """
        if cross_after is not None:
            self._refuse_outside(cross_after)
        cls_BAC, bbox_BA4K, crossing = [], [], []
        for map_BDHW, scale in zip(maps, self.scales, strict=True):
            if cross_after is None:
                cls_BAC.append(self._cls_rows(self.cls_tower(map_BDHW)))
                bbox_BA4K.append(self._bbox_rows(self.bbox_tower(map_BDHW), scale))
            else:
                cls_BDHW = _until(self.cls_tower, map_BDHW, cross_after)
                bbox_BDHW = _until(self.bbox_tower, map_BDHW, cross_after)
                crossing.append((cls_BDHW, bbox_BDHW))
                cls_BAC.append(self._cls_rows(_rest(self.cls_tower, cls_BDHW, cross_after)))
                rest_BDHW = _rest(self.bbox_tower, bbox_BDHW, cross_after)
                bbox_BA4K.append(self._bbox_rows(rest_BDHW, scale))
        predictions = self._joined(cls_BAC, bbox_BA4K)
        return predictions._replace(maps=tuple(maps), crossing=tuple(crossing))

    def boxes(self, maps: Sequence[Float[Tensor, "B D _ _"]]) -> Predictions:
        """Return what `forward` says of boxes, bit by bit; of no class, so `cls_logits` has none.

        The class tower does not run.
        """
        bbox_BA4K = [
            self._bbox_rows(self.bbox_tower(map_BDHW), scale)
            for map_BDHW, scale in zip(maps, self.scales, strict=True)
        ]
        joined_BA4K = torch.cat(bbox_BA4K, dim=1)
        none_BA0 = joined_BA4K.new_empty(*joined_BA4K.shape[:2], 0)
        return Predictions(none_BA0, joined_BA4K, maps=tuple(maps))

    def from_crossing(
        self,
        features: Sequence[tuple[Float[Tensor, "B D _ _"], Float[Tensor, "B D _ _"]]],
        after: int,
    ) -> Predictions:
        """Return what this head makes of features from inside another head's towers.

        Gradients reach the features, through weights that may be frozen.

        Args:
            features: For each level those of the class tower and of the box tower, after the
                GroupNorm of convolution `after`, before its ReLU.
            after: Convolutions that the features have behind them.

        Raises:
            ValueError: The towers have no such convolution.

        Source: CrossKD (arXiv 2306.11369).
        """
        self._refuse_outside(after)
        cls_BAC, bbox_BA4K = [], []
        for (cls_BDHW, bbox_BDHW), scale in zip(features, self.scales, strict=True):
            cls_BAC.append(self._cls_rows(_rest(self.cls_tower, cls_BDHW, after)))
            bbox_BA4K.append(self._bbox_rows(_rest(self.bbox_tower, bbox_BDHW, after), scale))
        return self._joined(cls_BAC, bbox_BA4K)

    def _refuse_outside(self, after: int) -> None:
        if not 1 <= after <= len(self.cls_tower):
            raise ValueError(f"towers of {len(self.cls_tower)} convolutions have no number {after}")

    def _cls_rows(self, feature_BDHW: Tensor) -> Tensor:
        cls_BCHW: Tensor = self.cls_logits(feature_BDHW)
        return cls_BCHW.permute(0, 2, 3, 1).flatten(1, 2)

    def _bbox_rows(self, feature_BDHW: Tensor, scale: Tensor) -> Tensor:
        bbox_BHW: Tensor = self.bbox_logits(feature_BDHW) * scale
        return bbox_BHW.permute(0, 2, 3, 1).reshape(len(bbox_BHW), -1, 4, self.num_bins)

    def _joined(self, cls_levels: list[Tensor], bbox_levels: list[Tensor]) -> Predictions:
        cls_BAC, bbox_BA4K = torch.cat(cls_levels, dim=1), torch.cat(bbox_levels, dim=1)
        if self.quality is None:
            return Predictions(cls_BAC, bbox_BA4K)
        weighed_BAC = weighed_logits(cls_BAC, self.quality(bbox_BA4K))
        return Predictions(weighed_BAC, bbox_BA4K, bare_cls_logits=cls_BAC)


def _until(tower: nn.Sequential, map_BDHW: Tensor, after: int) -> Tensor:
    """Return what a tower has after the GroupNorm of convolution `after`, before its ReLU."""
    parts = [part for layer in tower[:after] for part in layer.children()]
    for part in parts[:-1]:
        map_BDHW = part(map_BDHW)
    return map_BDHW


def _rest(tower: nn.Sequential, crossing_BDHW: Tensor, after: int) -> Tensor:
    """Return what a tower makes of that; the ReLU is not in place, for the feature is kept."""
    out_BDHW: Tensor = tower[after:](F.relu(crossing_BDHW))
    return out_BDHW


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

    def forward(
        self, images: Float[Tensor, "B 3 H W"], cross_after: int | None = None
    ) -> Predictions:
        """Return raw logits at every location of the canvas, for normalised RGB images.

        With `cross_after`, the head's features after that convolution of its towers as well.

        Raises:
            ValueError: The towers have no such convolution.
        """
        predictions: Predictions = self.head(self.fpn(self.backbone(images)), cross_after)
        return predictions

    def boxes(self, images: Float[Tensor, "B 3 H W"]) -> Predictions:
        """Return what `forward` says of boxes, and of no class; the class tower does not run."""
        predictions: Predictions = self.head.boxes(self.fpn(self.backbone(images)))
        return predictions

    def train(self, mode: bool = True) -> "Detector":
        """Switch to training (or evaluation); the frozen parts stay in evaluation."""
        super().train(mode)
        self._frozen.hold(self.backbone)
        return self
