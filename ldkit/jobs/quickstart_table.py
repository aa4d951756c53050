"""The table at the end of a quickstart: honest about what one seed can say."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ldkit.cache.info import info
from ldkit.jobs.cache_info import size_beside_dense
from ldkit.jobs.evaluate import COLUMNS
from ldkit.jobs.facts import Fact, Facts, as_json

FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100")
ONE_SEED = (
    "One seed is one seed: the difference changes from seed to seed by about as much as its size."
    "\nFor means and standard errors: ldkit quickstart --seeds 4"
)
SEVERAL = "Mean ± standard error over {} seeds; differences are paired (same seed, same batches)."


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
    figures = {name: [_scores(folder) for folder in folders] for name, folders in runs.items()}
    _, plain, distilled = figures
    seeds = len(figures[plain])
    rows = [[name, *_means(figures[name])] for name in figures]
    rows.append(["difference", *_differences(figures[plain], figures[distilled])])
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


def _scores(run: Path) -> dict[str, float | None]:
    content = json.loads((run / "eval" / "val.json").read_text(encoding="utf-8"))
    return {name: content[name] for name in FIGURES}


def _means(runs: Sequence[Mapping[str, float | None]]) -> list[str]:
    return [_mean([run[name] for run in runs], "{:.1f}") for name in FIGURES]


def _differences(
    plain: Sequence[Mapping[str, float | None]], distilled: Sequence[Mapping[str, float | None]]
) -> list[str]:
    texts = []
    for name in FIGURES:
        pairs = [(a[name], b[name]) for a, b in zip(plain, distilled, strict=True)]
        gaps = [None if a is None or b is None else b - a for a, b in pairs]
        texts.append(_mean(gaps, "{:+.1f}"))
    return texts


def _mean(values: Sequence[float | None], form: str) -> str:
    """Return the mean in percent; below it the standard error, where there are several values."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return "-"
    mean = form.format(statistics.fmean(known))
    if len(known) == 1:
        return mean
    return f"{mean}\n±{statistics.stdev(known) / len(known) ** 0.5:.1f}"
