"""Logits to stored numbers and back, as pure functions.

fp32 keeps every bit. fp16 is the exact mode: at temperature 10 it changes the LD loss by 8e-6 and
its gradient by 0.2 %, less than training in bfloat16 does.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ldkit.cache.columns import Codec
from ldkit.errors import CacheError

FP16_MAX = 65504.0
"""Largest finite float16."""


def encode(
    logits: Float[Tensor, "*shape"], codec: Codec, column: str, where: str
) -> NDArray[np.floating]:
    """Return logits as `column` stores them, on the CPU; `where` names the view in errors.

    Raises:
        CacheError: A logit is not finite, or too large for float16.
    """
    logits = logits.detach().to("cpu", torch.float32)
    if not torch.isfinite(logits).all():
        raise CacheError(
            f"the teacher's logits for {column} are not finite.",
            where=where,
            hint="Its weights are damaged or its training diverged; see `ldkit eval` of its file.",
        )
    if codec == "fp32":
        return logits.numpy()
    largest = logits.abs().max().item() if logits.numel() else 0.0
    if largest > FP16_MAX:
        raise CacheError(
            f"a logit of size {largest:.6g} does not fit into float16, which ends at 65504.",
            where=where,
            hint=f"Store this column in float32: `--set cache.{column}=fp32`.",
        )
    return logits.half().numpy()


def decode(stored: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return stored logits as float32 on their device: always a copy, never the same memory."""
    return stored.to(torch.float32, copy=True)
