"""The picture of edge_entropy.py: entropy over softness for each kind, and AUC beside them."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ldkit.metrics.ambiguity import SOFT_KINDS
from tests.benchmarks.edge_entropy_scenes import BINS, LIMITS, Edges, Spread, cells

WIDTH_IN, HEIGHT_IN, DPI = 8.0, 6.3, 150
COLOURS = ("#3d3d3d", "#0072b2", "#d55e00")
MARKS = ("s", "o", "^")
GREY = "#595959"
DASHES = (0, (4, 4))
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "legend.frameon": False,
}


def draw(path: Path, edges: Edges, spreads: Mapping[str, Spread], seeds: int) -> None:
    """Write the picture; `spreads` goes from the name of a role to its figures."""
    mpl.use("agg")
    scenes = len(np.unique(edges.scene))
    note = f"Bands and bars: 95 % intervals over {scenes} scenes. Dashed: sharp edges, or chance."
    if seeds > 1:
        note += f"\nStudents: mean of {seeds} seeds."
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
        panels = axes.flatten().tolist()
        for number in range(len(SOFT_KINDS)):
            _draw_kind(panels[number], number, edges, spreads)
        _share_range(panels[:3])
        _draw_auc(panels[3], edges, spreads)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        figure.supxlabel(note, size=9, color=GREY)
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
        plt.close(figure)


def _draw_kind(axes: Axes, number: int, edges: Edges, spreads: Mapping[str, Spread]) -> None:
    """Draw mean entropy over bins of softness for one kind, beside that of sharp edges."""
    places = np.array([0, *range(1 + number * BINS, 1 + (number + 1) * BINS)])
    counts = np.bincount(cells(edges), minlength=places[-1] + 1)[places]
    for (name, spread), colour, mark in zip(spreads.items(), COLOURS, MARKS, strict=True):
        value, low, high = (column[places] for column in spread.entropy)
        look = {"color": colour, "marker": mark, "markersize": 5, "linewidth": 1.6}
        axes.axhline(value[0], color=colour, linewidth=0.8, linestyle=DASHES, alpha=0.7)
        axes.errorbar(0, value[0], yerr=[[value[0] - low[0]], [high[0] - value[0]]], **look)
        soft = np.arange(1, len(places))
        axes.fill_between(soft, low[1:], high[1:], color=colour, alpha=0.13, linewidth=0)
        axes.plot(soft, value[1:], label=name, **look)
    limits = ["0", *(f"{limit:g}".lstrip("0") for limit in LIMITS), "1"]
    ranges = [f"{start}–{end}" for start, end in pairwise(limits)]
    axes.set_xticks(range(len(places)), _counted(["sharp", *ranges], counts.tolist()))
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_title(f"{SOFT_KINDS[number]} edges")
    axes.set_xlabel("recorded softness, number of edges")
    axes.set_ylabel("mean entropy (nats)")


def _counted(names: list[str], counts: list[int]) -> list[str]:
    return [f"{name}\n{count:,}" for name, count in zip(names, counts, strict=True)]


def _share_range(panels: list[Axes]) -> None:
    limits = np.array([axes.get_ylim() for axes in panels])
    for axes in panels:
        axes.set_ylim(limits[:, 0].min(), limits[:, 1].max())
        axes.yaxis.set_major_locator(MaxNLocator(5))


def _draw_auc(axes: Axes, edges: Edges, spreads: Mapping[str, Spread]) -> None:
    """Draw AUC of each kind against the sharp edges, with intervals."""
    names = [*SOFT_KINDS, "all soft"]
    counts = [int((edges.kind == kind).sum()) for kind in SOFT_KINDS]
    counts.append(sum(counts))
    x = np.arange(len(names))
    for number, (spread, colour, mark) in enumerate(
        zip(spreads.values(), COLOURS, MARKS, strict=True)
    ):
        value, low, high = spread.auc
        axes.errorbar(
            x + 0.2 * (number - 1),
            value,
            yerr=(value - low, high - value),
            color=colour,
            marker=mark,
            markersize=5,
            linestyle="none",
            elinewidth=1.4,
            capsize=2.5,
        )
    axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=DASHES)
    axes.text(len(names) - 0.5, 0.5, "chance", color=GREY, ha="right", va="bottom", size=9)
    axes.set_xticks(x, _counted(names, counts))
    axes.set_xlim(-0.5, len(names) - 0.5)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.45), max(high, 0.8))
    axes.set_title("entropy of soft against sharp edges")
    axes.set_xlabel("kind, number of edges")
    axes.set_ylabel("AUC")
