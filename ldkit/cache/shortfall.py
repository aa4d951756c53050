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


def shortfalls(plan: Plan, wanted: Wanted) -> Iterator[Shortfall]:
    """Yield what is wanted of a cache that it lacks or holds otherwise; none: it fits."""
    held = _fields(plan.coverage)
    for region, values in _fields(wanted.coverage).items():
        if region not in held:
            yield _absent(_REGIONS[region], values)
            continue
        for name, value in values.items():
            if held[region][name] != value:
                yield _other(_VALUES[f"{region}.{name}"], held[region][name], value)
    columns = {column.name for group in plan.groups for column in group.columns}
    for name, absent in _CLASSES.items():
        region = name.partition(".")[0]
        if name in wanted.columns - columns and region in held:
            yield _absent(absent, {})


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
        hint=f"Set {settings}, or build a new cache (`--out caches/NAME {rebuild}`).",
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


def _other(value: _Value, held: object, wanted: object) -> Shortfall:
    return Shortfall(
        held=f"{value.told.format(held)} ({value.named})",
        wanted=f"wants {wanted}",
        settings=(f"{value.objective}={held}",),
        rebuild=f"{value.cache}={wanted}",
    )


def _listed(words: Iterable[str]) -> str:
    *some, last = dict.fromkeys(words)
    return f"{', '.join(some)} and {last}" if some else last
