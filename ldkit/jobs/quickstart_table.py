"""The table at the end of a quickstart: honest about what one seed can say."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ldkit.cache.info import info
from ldkit.jobs.cache_info import size_beside_dense
from ldkit.jobs.evaluate import COLUMNS, FIGURES
from ldkit.jobs.facts import Fact, Facts, as_json
from ldkit.jobs.scored_runs import figures_of
from ldkit.jobs.seed_means import SEVERAL, cells, differences, means

ONE_SEED = (
    "One seed is one seed: the difference changes from seed to seed by about as much as its size."
    "\nFor means and standard errors: ldkit quickstart --seeds 4"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A title, rows of text under the paper's columns, facts beside them, and a caveat."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    facts: Facts
    caveat: str
    figures: dict[str, list[dict[str, float | None]]]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values; `figures` are fractions, one entry a seed."""
        return asdict(self) | {"facts": as_json(self.facts)}


def outcome(
    cache: Path, runs: Mapping[str, Sequence[Path]], seconds: float, written: str
) -> Outcome:
    """Return the table of these runs: the teacher, the plain students, the distilled ones."""
    figures = {
        name: [figures_of(folder / "eval" / "val.json") for folder in folders]
        for name, folders in runs.items()
    }
    _, plain, distilled = figures
    seeds = len(figures[plain])
    rows = [[name, *cells(means(found, FIGURES), "{:.1f}")] for name, found in figures.items()]
    gaps = differences(figures[plain], figures[distilled])
    rows.append(["difference", *cells(means(gaps, FIGURES), "{:+.1f}")])
    return Outcome(
        title=f"Drawn shapes, AP in percent ({'seed 0' if seeds == 1 else f'{seeds} seeds'})",
        columns=COLUMNS,
        rows=rows,
        facts={
            "cache": size_beside_dense(info(cache)),
            "time": Fact(f"{seconds:.0f} s", {"seconds": round(seconds, 1)}),
            "written": written,
        },
        caveat=ONE_SEED if seeds == 1 else SEVERAL.format(seeds),
        figures=figures,
    )
