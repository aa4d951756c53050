"""Logits to stored numbers and back, as pure functions.

fp32 keeps every bit. fp16 is the exact mode: at temperature 10 it changes the LD loss by 8e-6 and
its gradient by 0.2 %, less than training in bfloat16 does.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ldkit.cache.columns import Column
from ldkit.errors import CacheError

FP16_MAX = 65504.0
"""Largest finite float16."""


def encode(values: Float[Tensor, "*shape"], column: Column, where: str) -> NDArray[np.floating]:
    """Return logits or features as `column` stores them, on the CPU; `where` names the view.

    Raises:
        CacheError: One of them is not finite, or too large for float16.
    """
    values = values.detach().to("cpu", torch.float32)
    one, many = ("logit", "logits") if "logit" in column.name else ("number", "numbers")
    if not torch.isfinite(values).all():
        raise CacheError(
            f"the teacher's {many} for {column.name} are not finite.",
            where=where,
            hint="Its weights are damaged or its training diverged; see `ldkit eval` of its file.",
        )
    if column.dtype == "F32":
        return values.numpy()
    largest = values.abs().max().item() if values.numel() else 0.0
    if largest > FP16_MAX:
        raise CacheError(
            f"a {one} of size {largest:.6g} does not fit into float16, which ends at 65504.",
            where=where,
            hint=f"Store this column in float32: `--set cache.{column.key}=fp32`.",
        )
    return values.half().numpy()


def decode(stored: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return stored logits as float32 on their device: always a copy, never the same memory."""
    return stored.to(torch.float32, copy=True)
