"""The table of an ablation: each arm over the seeds, and what it adds to the plain student."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ldkit.jobs.arms import PLAIN
from ldkit.jobs.evaluate import COLUMNS, FIGURES
from ldkit.jobs.scored_runs import Figures, figures_of
from ldkit.jobs.seed_means import SEVERAL, Mean, cells, differences, means

ONE_SEED = (
    "One seed is one seed: a difference changes from seed to seed by about as much as its size.\n"
    "The same command with --seeds 4 adds three more, and standard errors."
)


class Runs(NamedTuple):
    """The runs of an arm, one a seed."""

    arm: str
    folders: list[Path]
    scores: list[Path]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Rows of text under the paper's columns, a caveat, and the same as values.

    `rows` are the arms, `gaps` what each has more than the plain student; cells with a standard
    error have two lines. `document` is all of it as plain JSON values, figures as fractions.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    gaps: list[list[str]]
    caveat: str
    document: dict[str, Any]


def outcome(name: str, runs: Sequence[Runs], seeds: Sequence[int]) -> Outcome:
    """Return the table of these arms; the first is the plain student."""
    figures = {arm: [figures_of(path) for path in scores] for arm, _, scores in runs}
    of_plain = figures[PLAIN]
    shown = [key for key in FIGURES if key in of_plain[0]]
    gaps = {arm: differences(of_plain, found) for arm, found in figures.items() if arm != PLAIN}
    found_means = {arm: means(found, shown) for arm, found in figures.items()}
    gap_means = {arm: means(found, shown) for arm, found in gaps.items()}
    counted = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"
    return Outcome(
        title=f"{name} on val, AP in percent ({counted})",
        columns=tuple(c for c, key in zip(COLUMNS, FIGURES, strict=True) if key in shown),
        rows=[[arm, *cells(found, "{:.1f}")] for arm, found in found_means.items()],
        gaps=[[arm, *cells(found, "{:+.1f}")] for arm, found in gap_means.items()],
        caveat=ONE_SEED if len(seeds) == 1 else SEVERAL.format(len(seeds)),
        document={
            "name": name,
            "split": "val",
            "seeds": list(seeds),
            "arms": [
                {
                    "arm": arm,
                    "runs": [str(folder) for folder in folders],
                    "figures": figures[arm],
                    **_as_dict(found_means[arm]),
                    "difference": _as_dict(gap_means[arm]) if arm in gap_means else None,
                }
                for arm, folders, _ in runs
            ],
        },
    )


def _as_dict(found: Mapping[str, Mean | None]) -> dict[str, Figures]:
    """Return the means and their standard errors, each by the name of its figure."""
    return {
        "mean": {name: None if each is None else each.mean for name, each in found.items()},
        "standard_error": {
            name: None if each is None else each.error for name, each in found.items()
        },
    }
