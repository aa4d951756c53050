"""What a cache lacks of what a student reads, with both ways out: another recipe, another cache."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ldkit.cache.format import Coverage, Plan, Wanted
from ldkit.errors import CacheCoverage

_SCORED = ("objective.score.classification", "objective.score.box")
_CROSSED = ("objective.cross.classification", "objective.cross.box")


class Shortfall(NamedTuple):
    """One thing that is wanted and not there: what is held, what is wanted, as text.

    `settings` make the recipe fit the cache, `rebuild` makes a cache that fits the recipe: each
    is `key=value`, as `--set` takes it.
    """

    held: str
    wanted: str
    settings: tuple[str, ...]
    rebuild: str


class _Absent(NamedTuple):
    """A region or column that a cache may lack: its name, recipe key, value, and its readers."""

    what: str
    key: str
    value: str
    terms: tuple[str, ...]


_REGIONS = {
    "vlr": _Absent(
        "no rows of the VLR",
        "cache.vlr",
        "{}",
        ("objective.localization.vlr", "objective.classification_kd.vlr"),
    ),
    "imitation": _Absent(
        "no features", "cache.imitation", "{region: REGION}", ("objective.imitation",)
    ),
    "score": _Absent("no scored locations", "cache.score", "{}", (*_SCORED, *_CROSSED)),
    "cross": _Absent("no statistics of head features", "cache.cross", "{after: AFTER}", _CROSSED),
}
_CLASSES = {
    "main.cls_logits": _Absent(
        "no class logits of main rows",
        "cache.main.cls_logits",
        "fp16",
        ("objective.classification_kd.main",),
    ),
    "vlr.cls_logits": _Absent(
        "no class logits of the VLR",
        "cache.vlr.cls_logits",
        "fp16",
        ("objective.classification_kd.vlr",),
    ),
}


class _Value(NamedTuple):
    """A value of a region: how it is told, who says so, and the keys that decide it."""

    told: str
    named: str
    objective: str
    cache: str


_TOPK = "objective.assign.topk"
_VALUES = {
    "main.topk": _Value("the main region with topk {}", _TOPK, _TOPK, _TOPK),
    "vlr.topk": _Value("the VLR with topk {}", _TOPK, _TOPK, _TOPK),
    "vlr.overlap": _Value(
        "the VLR by overlap {}",
        "cache.vlr, objective.vlr.overlap",
        "objective.vlr.overlap",
        "objective.vlr.overlap",
    ),
    "vlr.floor": _Value(
        "the VLR down to {} of the threshold",
        "cache.vlr, objective.vlr.floor",
        "objective.vlr.floor",
        "objective.vlr.floor",
    ),
    "imitation.region": _Value(
        "features at {}",
        "cache.imitation.region",
        "objective.imitation.region",
        "cache.imitation.region",
    ),
    "score.floor": _Value(
        "locations with a score down to {}",
        "cache.score, objective.score.floor",
        "objective.score.floor",
        "objective.score.floor",
    ),
    "cross.after": _Value(
        "head features after convolution {}",
        "cache.cross.after",
        "objective.cross.after",
        "cache.cross.after",
    ),
}


_HIGHER_VLR = "rows above a higher floor may belong to other boxes, so they cannot be picked out"


def shortfalls(plans: Sequence[Plan], wanted: Wanted) -> Iterator[Shortfall]:
    """Yield what is wanted of a cache that none of its generations holds; none: it fits.

    `plans` are those of its generations, the root's first.
    """
    for region in _fields(wanted.coverage):
        if any(holds(plan, wanted, region) for plan in plans):
            continue
        # What one generation holds otherwise says more than that another has none of it.
        having = [plan for plan in plans if region in _fields(plan.coverage)]
        yield from _lacks((having or plans)[-1], wanted, region)


def holds(plan: Plan, wanted: Wanted, region: str) -> bool:
    """Say whether all that is wanted of a region is in a generation with this plan."""
    return not any(_lacks(plan, wanted, region))


def _lacks(plan: Plan, wanted: Wanted, region: str) -> Iterator[Shortfall]:
    held, values = _fields(plan.coverage).get(region), _fields(wanted.coverage)[region]
    if held is None:
        yield _absent(_REGIONS[region], values)
        return
    for name, value in values.items():
        if not _serves(f"{region}.{name}", held[name], value):
            yield _other(f"{region}.{name}", held[name], value)
    column = f"{region}.cls_logits"
    columns = {column.name for group in plan.groups for column in group.columns}
    if column in _CLASSES and column in wanted.columns - columns:
        yield _absent(_CLASSES[column], {})


def _serves(name: str, held: object, wanted: object) -> bool:
    """Say whether a value of a region serves: scores down to a lower floor are more of the same."""
    if name == "score.floor":
        return isinstance(held, float) and isinstance(wanted, float) and held <= wanted
    return held == wanted


def coverage_error(found: Sequence[Shortfall], folder: Path) -> CacheCoverage:
    """Return the error that says all of it."""
    lines = [f"holds {each.held}, this recipe {each.wanted}." for each in found]
    message = lines[0]
    if len(lines) > 1:
        message = "does not hold what this recipe reads.\n" + "\n".join(f"  {x}" for x in lines)
    settings = _listed(f"`{each}`" for one in found for each in one.settings)
    rebuild = " ".join(dict.fromkeys(f"--set {each.rebuild}" for each in found))
    return CacheCoverage(
        message,
        where=str(folder),
        hint=f"Set {settings}, or store it (`{rebuild}`): beside what is there "
        "(`ldkit cache-logits RECIPE --extend`), or in a new cache (`--out caches/NAME`).",
    )


def _fields(coverage: Coverage) -> dict[str, dict[str, object]]:
    content: dict[str, dict[str, object]] = coverage.model_dump(exclude_unset=True)
    return content


def _absent(absent: _Absent, values: dict[str, object]) -> Shortfall:
    value = absent.value
    for name, wanted in values.items():
        value = value.replace(name.upper(), str(wanted))
    setting = f"{absent.key}={value}"
    return Shortfall(
        held=f"{absent.what} ({absent.key})",
        wanted="reads them",
        settings=tuple(f"{term}=null" for term in absent.terms),
        rebuild=f"'{setting}'" if "{" in setting else setting,
    )


def _other(name: str, held: object, wanted: object) -> Shortfall:
    value, why = _VALUES[name], ""
    if name == "vlr.floor" and float(str(held)) < float(str(wanted)):
        why = f" ({_HIGHER_VLR})"
    return Shortfall(
        held=f"{value.told.format(held)} ({value.named})",
        wanted=f"wants {wanted}{why}",
        settings=(f"{value.objective}={held}",),
        rebuild=f"{value.cache}={wanted}",
    )


def _listed(words: Iterable[str]) -> str:
    *some, last = dict.fromkeys(words)
    return f"{', '.join(some)} and {last}" if some else last
