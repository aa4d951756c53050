"""Are distributions wide where the picture is ambiguous? Edge entropy against recorded softness.

    .venv/bin/python tests/benchmarks/edge_entropy.py DATA --teacher FILE --plain FILE ...
        --distilled FILE ... [--picture docs/images/edge_entropy.png] [--json FILE]

DATA is a folder of drawn shapes (`ldkit data synth`, or quickstart/shapes), the files are model
files; several are seeds, plain and distilled ones in the same order. Each model sees every
validation scene as `ldkit eval` shows it, plain, never mirrored.

A box is judged by its best row: of the locations that ATSS gives it (its main rows), the one with
the highest score for its class, which is what suppression of duplicates would keep. `--rows mean`
takes the mean entropy over all its main rows instead. Boxes without main rows are left out, and so
are those that any of the models has none for.

Figures of several seeds are their mean ± standard error. Intervals (in the picture and below the
table) are something else: 95 % bootstrap intervals over the scenes, with the models as they are.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import log
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

from ldkit.data.coco import CocoIndex
from ldkit.data.dataset import ViewDataset, load_batches
from ldkit.files import canonical_json, write_text
from ldkit.jobs import assemble
from ldkit.jobs.detect import planned_batches
from ldkit.jobs.targets import target
from ldkit.metrics.ambiguity import SOFT_KINDS, AmbiguityFigures, ambiguity_figures
from ldkit.models.gfl import Detector
from ldkit.ops.anchors import anchors, valid_locations
from ldkit.ops.distribution import entropy
from ldkit.ops.pixels import normalise
from ldkit.ops.regions import assign_atss, main_rows
from ldkit.recipe.schema import Recipe
from ldkit.structures import Batch, Rows, padded_sizes, resized_sizes
from tests.benchmarks.edge_entropy_scenes import BINS, Edges, Spread, cells, spread
from tests.benchmarks.paired import say

TEACHER, PLAIN, DISTILLED = "teacher", "plain student", "distilled student"
BoxRows = Literal["best", "mean"]


@dataclass(frozen=True, slots=True)
class Role:
    """The models of one role, one for each seed: their files, figures and spread over scenes."""

    files: tuple[Path, ...]
    figures: tuple[AmbiguityFigures, ...]
    spread: Spread


class BoxEntropy(NamedTuple):
    """Entropy of the edges of each box of a data set, NaN where a box has no row; K bins."""

    values: Float64[np.ndarray, "G 4"]
    bins: int


def main() -> None:
    """Measure, print, draw."""
    options = _options()
    torch.set_num_threads(1)
    files = {TEACHER: [options.teacher], PLAIN: options.plain, DISTILLED: options.distilled}
    found = {
        name: [_of_model(path, options.data, options.rows) for path in paths]
        for name, paths in files.items()
    }
    every = [one for models in found.values() for one in models]
    edges, kept = _edges(options.data, every)
    roles = {
        name: _role(files[name], [one.values[kept].flatten() for one in models], edges)
        for name, models in found.items()
    }
    _show_edges(edges, kept, max(one.bins for one in every), options.rows)
    _show_figures(roles)
    _show_intervals(roles)
    if options.json is not None:
        write_text(options.json, canonical_json(_as_dict(options, edges, roles)) + "\n")
    if options.picture is not None:
        from tests.benchmarks.edge_entropy_picture import draw  # matplotlib: for this alone

        spreads = {name: role.spread for name, role in roles.items()}
        draw(options.picture, edges, spreads, len(options.plain))
        say(f"\nwritten {options.picture}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of drawn shapes")
    parser.add_argument("--teacher", type=Path, metavar="FILE", required=True)
    parser.add_argument("--plain", type=Path, metavar="FILE", nargs="+", required=True)
    parser.add_argument("--distilled", type=Path, metavar="FILE", nargs="+", required=True)
    parser.add_argument("--rows", choices=get_args(BoxRows), default="best")
    parser.add_argument("--picture", type=Path, metavar="FILE.png")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if len(options.plain) != len(options.distilled):
        parser.error("--plain and --distilled are pairs: name as many of one as of the other.")
    if options.picture is not None and find_spec("matplotlib") is None:
        parser.error("--picture needs matplotlib: pip install 'ldkit[docs]'.")
    return options


def _of_model(path: Path, data: Path, choice: BoxRows) -> BoxEntropy:
    """Return the entropy of every validation box, as the recipe in the model file evaluates."""
    recipe = target(path, [f"data.root={data}"]).recipe
    model, file = assemble.trained_detector(path)
    index = assemble.index(recipe.data, recipe.data.val)
    if file.classes != index.class_names:
        raise SystemExit(f"{path}: was trained on other classes than those of {data}.")
    first = _first_boxes(index)
    values = np.full((sum(len(record.boxes) for record in index.records.values()), 4), np.nan)
    view = assemble.view_policy(recipe.views, recipe.seed).draw_plain
    batches = planned_batches(index, recipe)
    for batch in load_batches(
        ViewDataset(index.records, view), batches, recipe.data.workers, torch.device("cpu")
    ):
        rows, entropy_P4, score_P = _of_batch(model, batch, recipe)
        starts = np.array([first[key.image_id] for key in batch.keys])
        box_P = starts[rows.image.numpy()] + rows.gt_index.numpy()
        _into_boxes(values, box_P, entropy_P4.double().numpy(), score_P.numpy(), choice)
    return BoxEntropy(values, recipe.detector.head.reg_max + 1)


@torch.no_grad()
def _of_batch(
    model: Detector, batch: Batch, recipe: Recipe
) -> tuple[Rows, Float[Tensor, "P 4"], Float[Tensor, "P"]]:
    """Return the main rows of a batch, the entropy of their edges, their score for the class."""
    device, canvas = batch.pixels.device, batch.canvas_hw
    predictions = model(normalise(batch.pixels, resized_sizes(batch.views, device)))
    valid_BA = valid_locations(canvas, padded_sizes(batch.views, device), model.grid)
    places, topk = anchors(canvas, model.grid, device), recipe.objective.assign.topk
    rows = main_rows(assign_atss(places, valid_BA, batch.ground_truth, topk))
    label_P = batch.ground_truth.labels[rows.image, rows.gt_index]
    score_P = predictions.cls_logits[rows.image, rows.location, label_P]
    return rows, entropy(predictions.bbox_logits[rows.image, rows.location]), score_P


def _into_boxes(
    values: Float64[np.ndarray, "G 4"],
    box: Int64[np.ndarray, "P"],
    row_entropy: Float64[np.ndarray, "P 4"],
    score: Shaped[np.ndarray, "P"],
    choice: BoxRows,
) -> None:
    """Write the entropy of each box that has rows into its line of `values`."""
    order = np.lexsort((-score, box))
    boxes, start, count = np.unique(box[order], return_index=True, return_counts=True)
    if choice == "best":
        values[boxes] = row_entropy[order][start]
    elif len(boxes):
        values[boxes] = np.add.reduceat(row_entropy[order], start) / count[:, None]


def _first_boxes(index: CocoIndex) -> dict[int, int]:
    """Return, for each image, how many boxes the images before it have."""
    counts = [len(record.boxes) for record in index.records.values()]
    return dict(zip(index.records, np.cumsum([0, *counts]).tolist(), strict=False))


def _edges(data: Path, models: Sequence[BoxEntropy]) -> tuple[Edges, Bool[np.ndarray, "G"]]:
    """Return what is recorded of the edges that every model has rows for, and of which boxes."""
    file = data / "annotations" / "instances_val.json"
    boxes = json.loads(file.read_text(encoding="utf-8"))["annotations"]
    boxes.sort(key=lambda box: box["image_id"])  # stable: within an image, order of the file
    if "softness_kind" not in boxes[0]:
        raise SystemExit(f"{file}: records no softness; `ldkit data synth` draws shapes that do.")
    if len(boxes) != len(models[0].values):
        raise SystemExit(f"{file}: some boxes cannot be used; draw the shapes anew.")
    kept = np.isfinite([one.values for one in models]).all(axis=(0, 2))
    chosen = [box for box, keep in zip(boxes, kept, strict=True) if keep]
    _, scene = np.unique([box["image_id"] for box in boxes], return_inverse=True)
    edges = Edges(
        scene=scene[kept].repeat(4),
        softness=np.array([box["softness"] for box in chosen], np.float64).flatten(),
        kind=np.array([box["softness_kind"] for box in chosen]).flatten(),
        side=np.array([box["true_bbox"][2:] * 2 for box in chosen], np.float64).flatten(),
    )
    return edges, kept


def _role(files: Sequence[Path], entropies: Sequence[np.ndarray], edges: Edges) -> Role:
    figures = [
        ambiguity_figures(values, edges.softness, edges.kind, edges.side) for values in entropies
    ]
    return Role(tuple(files), tuple(figures), spread(edges, entropies))


def _show_edges(edges: Edges, kept: np.ndarray, bins: int, choice: BoxRows) -> None:
    kinds, counts = np.unique(edges.kind, return_counts=True)
    parts = [f"{kind} {count:,}" for kind, count in zip(kinds, counts, strict=True)]
    say(f"{len(edges.kind):,} edges of {kept.sum():,} boxes: {', '.join(parts)}")
    say(f"left out, without main rows: {(~kept).sum():,} boxes")
    say(f"entropy in nats, at most ln {bins} = {log(bins):.2f}; rows of a box: {choice}\n")


def _show_figures(roles: Mapping[str, Role]) -> None:
    titles = [f"{name} ({len(role.files)})" for name, role in roles.items()]
    say(f"{'':<28}" + "".join(f"{title:>23}" for title in [*titles, "distilled - plain"]))
    columns = [[_flat(each) for each in role.figures] for role in roles.values()]
    _, plain, distilled = columns
    for name in columns[0][0]:
        texts = [_mean([each[name] for each in column], "{:.3f}") for column in columns]
        pairs = [(a[name], b[name]) for a, b in zip(plain, distilled, strict=True)]
        gaps = [None if a is None or b is None else b - a for a, b in pairs]
        say(f"{name:<28}" + "".join(f"{text:>23}" for text in [*texts, _mean(gaps, "{:+.3f}")]))


def _show_intervals(roles: Mapping[str, Role]) -> None:
    say("\nAUC, 95 % interval over scenes")
    for number, kind in enumerate((*SOFT_KINDS, "all soft")):
        texts = []
        for role in roles.values():
            value, low, high = (column[number] for column in role.spread.auc)
            texts.append(f"{value:.3f} [{low:.3f}, {high:.3f}]")
        say(f"{kind:<28}" + "".join(f"{text:>23}" for text in texts))


def _flat(figures: AmbiguityFigures) -> dict[str, float | None]:
    """Return the lines of the table."""
    kinds = {
        "faded": figures.faded,
        "blurred": figures.blurred,
        "occluded": figures.occluded,
        "all soft": figures.soft,
    }
    lines = {"mean entropy, sharp": figures.sharp_entropy}
    lines |= {f"mean entropy, {name}": kind.entropy for name, kind in kinds.items()}
    lines |= {f"AUC, {name}": kind.auc for name, kind in kinds.items()}
    lines |= {f"AUC same size, {name}": kind.auc_same_size for name, kind in kinds.items()}
    lines |= {f"Spearman, {name}": kind.spearman for name, kind in kinds.items()}
    return lines | {"Spearman, all edges": figures.spearman}


def _mean(values: Sequence[float | None], form: str) -> str:
    """Return the mean, with its standard error where there are several values."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    error = f" ± {statistics.stdev(known) / len(known) ** 0.5:.3f}" if len(known) > 1 else ""
    return form.format(statistics.fmean(known)) + error


def _as_dict(
    options: argparse.Namespace, edges: Edges, roles: Mapping[str, Role]
) -> dict[str, Any]:
    """Return everything as plain JSON values."""
    return {
        "data": str(options.data),
        "rows": options.rows,
        "scenes": len(np.unique(edges.scene)),
        "edges": len(edges.kind),
        "cells": np.bincount(cells(edges), minlength=1 + BINS * len(SOFT_KINDS)).tolist(),
        "roles": {
            name: {
                "files": [str(path) for path in role.files],
                "figures": [_flat(each) for each in role.figures],
                "entropy_of_cells": role.spread.entropy.as_lists(),
                "auc_of_kinds": role.spread.auc.as_lists(),
            }
            for name, role in roles.items()
        },
    }


if __name__ == "__main__":
    main()
