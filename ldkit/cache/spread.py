"""How many rows the views of a cache have, read from the offsets columns alone."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ldkit.cache.folder import CacheFolder
from ldkit.cache.format import Plan
from ldkit.cache.receipts import Receipt

Counts = Mapping[str, NDArray[np.int64]]
"""Name of a group → the rows of each view."""


def row_counts(folder: CacheFolder, plan: Plan, receipts: Iterable[Receipt]) -> Counts | None:
    """Return the rows of each view in each group; None: a shard is not here, or damaged.

    Nothing is proved: these are figures to look at.
    """
    found: dict[str, list[NDArray[np.int64]]] = {group.name: [] for group in plan.groups}
    try:
        for receipt in receipts:
            for name, counts in _counts(folder.shard(receipt.shard), plan).items():
                found[name].append(counts)
    except (OSError, SafetensorError):
        return None
    return {name: np.concatenate([np.zeros(0, np.int64), *parts]) for name, parts in found.items()}


def _counts(shard: Path, plan: Plan) -> dict[str, NDArray[np.int64]]:
    with safe_open(shard, "numpy") as file:
        return {
            group.name: np.diff(file.get_tensor(group.offsets.name).astype(np.int64))
            for group in plan.groups
        }
