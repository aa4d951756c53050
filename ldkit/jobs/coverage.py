"""Which of the teacher's rows a recipe stores, and which its objective reads.

A cache may hold more than one objective reads: several recipes share it, and each reads its own
columns. Both sides are made here, from the same sections.
"""

from collections.abc import Iterator
from typing import NamedTuple

from ldkit.cache.format import (
    Columns,
    Coverage,
    CrossColumns,
    CrossRegion,
    FeatureColumns,
    ImitationRegion,
    MainRegion,
    RowColumns,
    ScoreColumns,
    ScoreRegion,
    VlrRegion,
    Wanted,
)
from ldkit.errors import UsageError
from ldkit.recipe.cache import Cache
from ldkit.recipe.objective import Imitation, Objective
from ldkit.recipe.schema import Recipe

READS = {
    "ld_main": ("main.bbox_logits",),
    "ld_vlr": ("vlr.bbox_logits",),
    "kd_main": ("main.cls_logits",),
    "kd_vlr": ("vlr.cls_logits",),
    "imitation": ("imitation.features",),
    "score_cls": ("score_class.logit",),
    "score_box": ("score.bbox_logits", "score_class.logit"),
    "cross_cls": ("score_class.logit", "cross.mean"),
    "cross_box": ("score.bbox_logits", "score_class.logit", "cross.mean"),
}
"""The columns beside location and box index that each term reads."""

ALWAYS = frozenset({"main.bbox_logits"})


class Stored(NamedTuple):
    """The rows that a cache holds, and what it keeps of them."""

    coverage: Coverage
    columns: Columns


def read_columns(objective: Objective) -> frozenset[str]:
    """Return the columns that the terms of an objective read, without those of gi.

    Imitation at gi is chosen in each step, so that no cache can hold its rows.
    """
    names = {
        column
        for _, name, section in objective.distillation_terms()
        if not (isinstance(section, Imitation) and section.region == "gi")
        for column in READS[name]
    }
    return frozenset(names) | ALWAYS


def wanted(recipe: Recipe) -> Wanted:
    """Return what the student of a recipe reads of its teacher."""
    objective = recipe.objective
    columns = read_columns(objective)
    groups = {column.partition(".")[0] for column in columns}
    # What is absent stays unset: a plan shows only what there is.
    regions: dict[str, object] = {"main": MainRegion(topk=objective.assign.topk)}
    if "vlr" in groups:
        regions["vlr"] = _vlr(objective)
    if "imitation" in groups:
        region = None if objective.imitation is None else objective.imitation.region
        assert region is not None
        assert region != "gi"
        regions["imitation"] = ImitationRegion(region=region)
    if "score_class" in groups:
        regions["score"] = ScoreRegion(floor=objective.score.floor)
    if "cross" in groups:
        regions["cross"] = CrossRegion(after=objective.cross.after)
    return Wanted(Coverage.model_validate(regions), columns)


def stored(recipe: Recipe, cache: Cache) -> Stored:
    """Return the rows and columns that a cache of this recipe holds.

    Raises:
        UsageError: The objective reads rows that the cache section does not store.
    """
    _refuse_holes(recipe, cache)
    objective = recipe.objective
    regions: dict[str, object] = {"main": MainRegion(topk=objective.assign.topk)}
    columns: dict[str, object] = {"main": RowColumns(**cache.main.model_dump())}
    if cache.vlr is not None:
        regions["vlr"] = _vlr(objective)
        columns["vlr"] = RowColumns(**cache.vlr.model_dump())
    if cache.imitation is not None:
        regions["imitation"] = ImitationRegion(region=cache.imitation.region)
        columns["imitation"] = FeatureColumns(features=cache.imitation.features)
    if cache.score is not None:
        regions["score"] = ScoreRegion(floor=objective.score.floor)
        columns["score"] = ScoreColumns(**cache.score.model_dump())
    if cache.cross is not None:
        regions["cross"] = CrossRegion(after=cache.cross.after)
        columns["cross"] = CrossColumns(statistics=cache.cross.statistics)
    return Stored(Coverage.model_validate(regions), Columns.model_validate(columns))


def everything(coverage: Coverage, columns: Columns) -> Wanted:
    """Return what a builder asks of its teacher: all that is stored."""
    names = set(ALWAYS)
    if columns.main.cls_logits is not None:
        names.add("main.cls_logits")
    if columns.vlr is not None:
        names.add("vlr.bbox_logits")
        if columns.vlr.cls_logits is not None:
            names.add("vlr.cls_logits")
    if columns.imitation is not None:
        names.add("imitation.features")
    if columns.score is not None:
        names |= {"score.bbox_logits", "score_class.logit"}
    if columns.cross is not None:
        names.add("cross.mean")
    return Wanted(coverage, frozenset(names))


def _vlr(objective: Objective) -> VlrRegion:
    vlr = objective.vlr
    return VlrRegion(topk=objective.assign.topk, overlap=vlr.overlap, floor=vlr.floor)


def _refuse_holes(recipe: Recipe, cache: Cache) -> None:
    lines = list(_holes(recipe.objective, cache))
    if lines:
        raise UsageError(
            "the objective reads rows that the cache section does not store:\n" + "\n".join(lines),
            where=recipe.name,
            hint="Store them, or set the terms to null. `--dry-run` shows what they weigh.",
        )


def _holes(objective: Objective, cache: Cache) -> Iterator[str]:
    """Yield a line for each term that reads what the cache would not store."""
    remedies = _remedies(objective, cache)
    for key, name, section in objective.distillation_terms():
        if isinstance(section, Imitation) and section.region == "gi":
            continue
        absent = [column for column in READS[name] if column in remedies]
        for remedy in dict.fromkeys(remedies[column] for column in absent):
            yield f"  {key} reads {', '.join(absent)}: `--set '{remedy}'`"


def _remedies(objective: Objective, cache: Cache) -> dict[str, str]:
    """Return column → what would store it, for the columns that are not stored."""
    remedies = {}
    if cache.main.cls_logits is None:
        remedies["main.cls_logits"] = "cache.main.cls_logits=fp16"
    if cache.vlr is None:
        remedies["vlr.bbox_logits"] = "cache.vlr={}"
    if cache.vlr is None or cache.vlr.cls_logits is None:
        remedies["vlr.cls_logits"] = "cache.vlr={cls_logits: fp16}"
    if cache.imitation is None and objective.imitation is not None:
        remedies["imitation.features"] = f"cache.imitation={{region: {objective.imitation.region}}}"
    if cache.score is None:
        remedies |= dict.fromkeys(("score.bbox_logits", "score_class.logit"), "cache.score={}")
    if cache.cross is None:
        remedies["cross.mean"] = "cache.cross={}"
    return remedies
