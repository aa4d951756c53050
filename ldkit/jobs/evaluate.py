"""`ldkit eval`: AP on images with boxes, or the file for a test server on images without."""

import json
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from ldkit.data.coco import CocoIndex
from ldkit.files import write_text
from ldkit.jobs import assemble
from ldkit.jobs.benchmark import Benchmark, Metrics, benchmarks
from ldkit.jobs.detect import detect
from ldkit.jobs.detect_resumable import Chunks, chunks_of, detect_resumable
from ldkit.jobs.progress import Message
from ldkit.jobs.targets import Target, labels, target
from ldkit.metrics.results import CocoResult
from ldkit.metrics.submission import Submission, write_submission
from ldkit.models.gfl import Detector

__all__ = [
    "COLUMNS",
    "FIGURES",
    "Outcome",
    "Scores",
    "Submitted",
    "Target",
    "columns",
    "percent",
    "run",
    "run_all",
    "score",
    "target",
]

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100")
"""The paper's columns, and the names of their figures."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What an evaluation found, and the JSON file that holds it."""

    metrics: Metrics
    file: Path


@dataclass(frozen=True, slots=True)
class Submitted:
    """The file for the test server, of so many images; what was done before is not in `seconds`."""

    submission: Submission
    images: int
    seconds: float


Outcome = Scores | Submitted


def columns(metrics: Metrics) -> list[str]:
    """Return those of the paper's columns that the metric has, as percentages."""
    figures = metrics.figures()
    return [percent(figures[name]) for name in FIGURES if name in figures]


def percent(figure: float | None) -> str:
    """Return a figure as a percentage; a dash where there was nothing to count."""
    return "-" if figure is None else f"{100 * figure:.1f}"


def run(
    goal: Target, split: str, *, device: str = "auto", evaluator: str | None = None
) -> Generator[Message, None, Outcome]:
    """Yield progress; return the scores on `split`, or the submission for `test-dev`.

    What was detected before an interruption is taken as it is.

    Raises:
        UsageError: There is no such split or evaluator.
        DataError: Images, annotations or classes do not fit.
    """
    (bench,) = benchmarks([goal], split, evaluator)
    outcome, chunks = yield from _evaluated(goal, bench, assemble.device(device))
    chunks.remove()
    return outcome


def run_all(
    goals: Sequence[Target], split: str, *, device: str = "auto", evaluator: str | None = None
) -> Generator[tuple[str, Message], None, list[Outcome]]:
    """Yield (model, message); return the outcome of each model, on the same images.

    Everything is checked before anything starts. Until all are done, what was detected is kept,
    so that an interrupted comparison goes on where it stopped.

    Raises:
        UsageError: There is no such split or evaluator, or the models have different images.
        DataError: Images, annotations or classes do not fit.
    """
    place = assemble.device(device)
    found = benchmarks(goals, split, evaluator)
    outcomes, finished = [], []
    for goal, bench, label in zip(goals, found, labels(goals), strict=True):
        outcome, chunks = yield from _staged(label, _evaluated(goal, bench, place))
        outcomes.append(outcome)
        finished.append(chunks)
    for chunks in finished:
        chunks.remove()
    return outcomes


def _staged(
    label: str, job: Generator[Message, None, tuple[Outcome, Chunks]]
) -> Generator[tuple[str, Message], None, tuple[Outcome, Chunks]]:
    with closing(job):
        while True:
            try:
                message = next(job)
            except StopIteration as end:
                result: tuple[Outcome, Chunks] = end.value
                return result
            yield label, message


def _evaluated(
    goal: Target, bench: Benchmark, device: torch.device
) -> Generator[Message, None, tuple[Outcome, Chunks]]:
    began = time.monotonic()
    model, file = assemble.trained_detector(goal.model)
    folder = goal.results / f"{bench.split}.partial"
    chunks = chunks_of(folder, file, bench.index, goal.recipe, device)
    model.to(device)
    results = yield from detect_resumable(model, bench.index, goal.recipe, device, chunks)
    if bench.measure is None:
        return _submitted(goal, bench.index, results, began), chunks
    return _scored(goal, bench, results, began), chunks


def score(
    model: Detector, bench: Benchmark, goal: Target, device: torch.device
) -> Generator[Message, None, Scores]:
    """Yield progress; return the scores of a model at hand, written to `eval/SPLIT.json`."""
    began = time.monotonic()
    results = yield from detect(model, bench.index, goal.recipe, device)
    return _scored(goal, bench, results, began)


def _scored(goal: Target, bench: Benchmark, results: list[CocoResult], began: float) -> Scores:
    assert bench.measure is not None
    metrics = bench.measure(results)
    content = {
        "name": goal.name,
        "split": bench.split,
        "images": len(bench.index.records),
        "seconds": round(time.monotonic() - began, 1),
        **metrics.as_dict(),
    }
    path = goal.results / f"{bench.split}.json"
    write_text(path, json.dumps(content, indent=2) + "\n")
    return Scores(metrics, path)


def _submitted(
    goal: Target, index: CocoIndex, results: list[CocoResult], began: float
) -> Submitted:
    sizes = {image_id: record.hw for image_id, record in index.records.items()}
    category_ids = [category.id for category in index.categories]
    written = write_submission(goal.results, goal.name, results, sizes, category_ids)
    return Submitted(written, len(sizes), time.monotonic() - began)
