"""Memory of answers, used again as soon as no tensor looks at it.

A fresh tensor of a megabyte costs a page fault for each 4 KB, several times what decoding into it
does. A training loop drops the answer of a step before the one after the next, so two or three
blocks of a size serve a whole run, and an answer that is kept longer keeps its block.
"""

import weakref
from math import prod

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

KEPT = 32
"""Free blocks kept at most; beyond them the smallest go."""


class Memory:
    """Blocks of float32 numbers on the CPU, each lent to one tensor at a time."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []

    def take(self, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
        """Return a tensor of any content, whose memory is not lent again while it is in use."""
        count = prod(shape)
        free = sorted((block for block in self._blocks if block.is_free), key=_size)
        for surplus in free[:-KEPT]:
            self._blocks.remove(surplus)
        for block in free[-KEPT:]:
            if len(block.numbers) >= count:
                return block.lend(shape, count)
        block = _Block(2 * count)
        self._blocks.append(block)
        return block.lend(shape, count)

    def __reduce__(self) -> tuple[type["Memory"], tuple[()]]:
        """Travel empty: another process has its own."""
        return Memory, ()


class _Block:
    """Numbers, and the array through which a tensor looks at them."""

    def __init__(self, count: int) -> None:
        self.numbers = np.empty(count, np.float32)
        self._view: weakref.ref[object] | None = None

    @property
    def is_free(self) -> bool:
        return self._view is None or self._view() is None

    def lend(self, shape: tuple[int, ...], count: int) -> Tensor:
        # The tensor's storage holds this array, so that it lives as long as any tensor on it.
        view = self.numbers[:count].reshape(shape)
        self._view = weakref.ref(view)
        return torch.from_numpy(view)


def _size(block: _Block) -> int:
    return len(block.numbers)
