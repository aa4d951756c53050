"""How many rows the views of a cache have, read from keys and offsets alone."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ldkit.cache.folder import CacheFolder, open_file
from ldkit.cache.format import Plan
from ldkit.cache.receipts import Receipt

KEY = ("view.image_id", "view.index")


class Spread(NamedTuple):
    """The views of a cache, as pairs (image_id, view), and by name of a group the rows of each."""

    keys: NDArray[np.int64]
    rows: Mapping[str, NDArray[np.int64]]


def row_counts(folder: CacheFolder, plan: Plan, receipts: Iterable[Receipt]) -> Spread | None:
    """Return the rows of each view in each group; None: a shard is not here, or damaged.

    Nothing is proved: these are figures to look at.
    """
    names = [group.name for group in plan.groups]
    parts = [Spread(np.zeros((0, 2), np.int64), dict.fromkeys(names, np.zeros(0, np.int64)))]
    try:
        parts += [_spread(folder.shard(each.shard), names, each.views) for each in receipts]
    # The last three: a dtype that NumPy does not have, columns of other shapes.
    except (OSError, SafetensorError, AttributeError, TypeError, ValueError):
        return None
    rows = {name: np.concatenate([part.rows[name] for part in parts]) for name in names}
    return Spread(np.concatenate([part.keys for part in parts]), rows)


def _spread(shard: Path, names: Iterable[str], views: int) -> Spread:
    os.close(open_file(shard))  # a pipe, which would be waited for, is refused
    with safe_open(shard, "numpy") as file:
        keys = np.stack([file.get_tensor(name) for name in KEY], axis=1).astype(np.int64)
        offsets = {name: file.get_tensor(f"{name}.offsets").astype(np.int64) for name in names}
    rows = {name: np.diff(each) for name, each in offsets.items()}
    falls = any(each.shape != (views,) or (each < 0).any() for each in rows.values())
    if falls or keys.shape != (views, 2):
        raise ValueError(f"{shard} has damaged keys or offsets.")
    return Spread(keys, rows)
