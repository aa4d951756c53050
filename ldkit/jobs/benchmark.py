"""The images of a split, and how detections on them are measured: COCO's way or Pascal VOC's.

Whether images, classes and models fit each other is found out here, before anything starts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import assert_never

from ldkit.data.coco import CocoIndex
from ldkit.data.voc import read_voc
from ldkit.errors import DataError, UsageError
from ldkit.jobs import assemble
from ldkit.jobs.targets import Target
from ldkit.metrics.coco_backend import evaluator_named
from ldkit.metrics.coco_eval import CocoMetrics, evaluate_coco
from ldkit.metrics.results import CocoResult
from ldkit.metrics.voc_eval import VocMetrics, VocTruth, evaluate_voc
from ldkit.recipe.data import CocoSplit, Data, Split, VocSplit
from ldkit.recipe.schema import Recipe

Metrics = CocoMetrics | VocMetrics
SPLITS = ("val", "test-dev", "train")
SHOWN_CLASSES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Benchmark:
    """A split, read once: its name on the command line, its images, its measure.

    `measure` is None where the boxes are on a test server.
    """

    split: str
    index: CocoIndex
    measure: Callable[[Sequence[CocoResult]], Metrics] | None


def benchmarks(goals: Sequence[Target], split: str, evaluator: str | None) -> list[Benchmark]:
    """Return the benchmark of each model; where they have the same data, it is read once.

    Raises:
        UsageError: There is no such split or evaluator, or the models have different images.
        DataError: Images or annotations are not right, or classes are not those of a model.
    """
    sections = [split_section(goal.recipe, split) for goal in goals]
    read: dict[tuple[str, Split, str], Benchmark] = {}
    found = []
    for goal, section in zip(goals, sections, strict=True):
        data = goal.recipe.data
        key = (data.root, section, data.bad_boxes)
        if key not in read:
            read[key] = benchmark(data, split, section, evaluator)
        check_classes(read[key].index, goal.classes, goal.model)
        found.append(read[key])
    _check_same_images(goals, sections, found)
    return found


def benchmark(data: Data, split: str, section: Split, evaluator: str | None = None) -> Benchmark:
    """Return the benchmark of a split; `evaluator` chooses between the two of COCO.

    Raises:
        DataError: Images or annotations are not right.
        UsageError: There is no such evaluator, it is not installed, or the split is not COCO's.
    """
    root = assemble.data_root(data)
    match section:
        case CocoSplit(images=images, annotations=annotations) if split == "test-dev":
            index = CocoIndex.read_image_list(root / images, root / annotations)
            return Benchmark(split, index, None)
        case CocoSplit(annotations=annotations):
            chosen = evaluator_named(evaluator)
            measure = partial(evaluate_coco, root / annotations, evaluator=chosen)
            return Benchmark(split, assemble.index(data, section), measure)
        case VocSplit(sets=sets):
            _refuse_choice(evaluator, split)
            voc = read_voc(root, sets, data.bad_boxes)
            by_voc = partial(
                evaluate_voc,
                VocTruth(*voc.objects),
                categories={category.id: category.name for category in voc.index.categories},
                images=len(voc.index.records),
            )
            return Benchmark(split, voc.index, by_voc)
        case _:
            assert_never(section)


def _refuse_choice(evaluator: str | None, split: str) -> None:
    if evaluator is not None:
        raise UsageError(
            f"chooses between the evaluators of COCO, but data.{split} is of Pascal VOC.",
            where="--evaluator",
            hint="Leave it out: VOC has one metric.",
        )


def split_section(recipe: Recipe, name: str) -> Split:
    """Return the section of a split by its name on the command line.

    Raises:
        UsageError: There is no split of that name, or the recipe has no such images.
    """
    data = recipe.data
    sections: dict[str, Split | None]
    sections = dict(zip(SPLITS, (data.val, data.test_dev, data.train), strict=True))
    if name not in sections:
        raise UsageError(
            f"there is no split {name!r}.", where="--split", hint=f"Take {', '.join(SPLITS)}."
        )
    section = sections[name]
    if section is None:
        key = f"data.{name.replace('-', '_')}"
        raise UsageError(
            f"the recipe has no {key} section, so there are no such images.",
            where=f"--split {name}",
            hint=f"Give both keys: `--set {key}.images=FOLDER --set {key}.annotations=FILE.json`.",
        )
    return section


def check_classes(index: CocoIndex, classes: tuple[str, ...], model: Path) -> None:
    """Refuse images whose classes are not those of the model, in number, name or order.

    Raises:
        DataError: The message shows the classes around the first that differs.
    """
    if index.class_names == classes:
        return
    first = next(
        (
            n
            for n, pair in enumerate(zip(index.class_names, classes, strict=False))
            if len({*pair}) > 1
        ),
        min(len(classes), len(index.class_names)),
    )
    raise DataError(
        f"has {len(index.categories)} classes ({_around(index.class_names, first)}), but the model "
        f"{model} was trained on {len(classes)} ({_around(classes, first)}).",
        where="data",
        hint="Evaluate on a data set with the same classes in the same order.",
    )


def _around(names: Sequence[str], first: int) -> str:
    """Return the names from the one before the first difference on, and dots for the others."""
    start = 0 if len(names) <= SHOWN_CLASSES else min(max(first - 1, 0), len(names) - 1)
    end = start + SHOWN_CLASSES
    dots = ["..."]
    return ", ".join([*dots[: start > 0], *names[start:end], *dots[: end < len(names)]])


def _check_same_images(
    goals: Sequence[Target], sections: Sequence[Split], found: Sequence[Benchmark]
) -> None:
    for goal, section, bench in zip(goals, sections, found, strict=True):
        if bench.index.fingerprint != found[0].index.fingerprint:
            places = [
                assemble.place(each.recipe.data, own)
                for each, own in ((goals[0], sections[0]), (goal, section))
            ]
            raise UsageError(
                "is evaluated on other images or boxes, so that the figures cannot be compared:\n"
                f"  {goals[0].model}: {places[0]}\n  {goal.model}: {places[1]}",
                where=str(goal.model),
                hint="Name the same data for all by `--set data...`, or evaluate one by one.",
            )
