"""The feature pyramid: one width at every level, coarse context added to fine maps."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Fpn(nn.Module):
    """Turn backbone maps of consecutive levels into a pyramid, and extend it upwards.

    Level l has a stride of 2^l pixels. The first levels come from the backbone; each further one
    is a strided convolution of the level below, starting at the pyramid's last output, without
    a ReLU in between.

    Source: FPN (arXiv 1612.03144); extra levels as in GFL (arXiv 2006.04388).
    """

    def __init__(self, in_channels: Sequence[int], channels: int, levels: Sequence[int]) -> None:
        """Build the pyramid.

        Args:
            in_channels: Channels of the backbone's maps, fine first: one for each of the first
                levels.
            channels: Channels of every output.
            levels: Consecutive levels, at least as many as there are backbone maps.
        """
        super().__init__()
        first, count = levels[0], len(levels)
        if tuple(levels) != tuple(range(first, first + count)):
            raise ValueError(f"levels {tuple(levels)} are not consecutive")
        if not 1 <= len(in_channels) <= count:
            raise ValueError(f"{len(in_channels)} backbone maps do not fit {count} levels")
        self.in_channels = tuple(in_channels)
        self.channels = channels
        self.strides = tuple(2**level for level in levels)
        extra = count - len(in_channels)
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        self.output = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels
        )
        self.extra = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(extra)
        )
        for parameter in self.parameters():
            if parameter.ndim == 4:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> tuple[Tensor, ...]:
        """Return one map of `channels` for each level, fine first."""
        merged = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for fine in range(len(merged) - 2, -1, -1):
            size = merged[fine].shape[2:]
            merged[fine] = merged[fine] + F.interpolate(merged[fine + 1], size=size)
        outputs = [output(x) for output, x in zip(self.output, merged, strict=True)]
        for extra in self.extra:
            outputs.append(extra(outputs[-1]))
        return tuple(outputs)
