"""Logits to stored numbers and back, as pure functions.

fp32 keeps every bit. fp16 is the exact mode: it changes the gradient of LD less than training in
bfloat16 does. u8 is the compact mode for box distributions: a byte for each bin, and one for each
edge that says how wide its steps are. docs/cache-format.md has the measured errors.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

from ldkit.cache.columns import Column
from ldkit.errors import CacheError

FP16_MAX = 65504.0
"""Largest finite float16."""
STEPS = np.exp2((np.arange(256) - 176) / 8).astype(np.float32)
"""What each byte of a `.scale` column means: eight widths to the octave, 2^-22 … 2^9.875.

A width is rounded up to one of these, by 9 % at most. That costs less than the second byte of a
float16 would, and any byte is a valid width.
"""
LEVELS = 255
"""Largest byte of a bin: the bin lies so many steps below the highest of its edge."""


class Encoded(NamedTuple):
    """The numbers of a column, and the width of the steps of each edge where they are U8."""

    values: NDArray[np.generic]
    scale: NDArray[np.uint8] | None = None


def encode(values: Float[Tensor, "*shape"], column: Column, where: str) -> Encoded:
    """Return logits or features as `column` stores them, on the CPU; `where` names the view.

    Raises:
        CacheError: One of them is not finite, or too large for the column.
    """
    values = values.detach().to("cpu", torch.float32)
    if not torch.isfinite(values).all():
        many = "logits" if "logit" in column.name else "numbers"
        raise CacheError(
            f"the teacher's {many} for {column.name} are not finite.",
            where=where,
            hint="Its weights are damaged or its training diverged; see `ldkit eval` of its file.",
        )
    match column.dtype:
        case "F32":
            return Encoded(values.numpy())
        case "F16":
            return Encoded(_halves(values, column, where))
        case _:
            return _steps(values.numpy(), column, where)


def decode(
    stored: Shaped[Tensor, "*shape"],
    scale: UInt8[Tensor, "..."] | None = None,
    out: Float[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """Return stored logits as float32 on their device: in `out`, or a copy, never the same memory.

    With a `scale` the highest logit of each edge is 0: what stood there before is not stored, and
    no distribution depends on it.
    """
    decoded = stored.to(torch.float32, copy=True) if out is None else out.copy_(stored)
    if scale is None:
        return decoded
    table = torch.from_numpy(-STEPS).to(stored.device)
    steps = table.index_select(0, scale.reshape(-1).int()).reshape(*scale.shape, 1)
    return decoded.mul_(steps)  # a product of bytes and floats in one pass takes ten times as long


def _halves(values: Tensor, column: Column, where: str) -> NDArray[np.generic]:
    largest = values.abs().max().item() if values.numel() else 0.0
    if largest > FP16_MAX:
        one = "logit" if "logit" in column.name else "number"
        raise _too_large(
            f"a {one} of size {largest:.6g} does not fit into float16, which ends at 65504.",
            column,
            where,
        )
    return values.half().numpy()


def _steps(values: NDArray[np.float32], column: Column, where: str) -> Encoded:
    below = values.max(axis=-1, keepdims=True).astype(np.float64) - values
    spread = below.max(axis=-1)
    largest = spread.max(initial=0.0)
    if largest > LEVELS * STEPS[-1]:
        raise _too_large(
            f"logits of an edge lie {largest:.6g} apart; u8 spans {LEVELS * STEPS[-1]:.6g}.",
            column,
            where,
        )
    scale = np.searchsorted(LEVELS * STEPS, spread).astype(np.uint8)
    return Encoded(np.rint(below / STEPS[scale][..., None]).astype(np.uint8), scale)


def _too_large(message: str, column: Column, where: str) -> CacheError:
    return CacheError(
        message,
        where=where,
        hint=f"Store this column in float32: `--set cache.{column.key}=fp32`.",
    )
