"""`ldkit cache verify`: four levels of proof that a cache is what a student takes it for.

structure: documents, keys, columns and rows are those of the plan. bytes: every shard has the
sha256 of its receipt. pixels: every view, rendered anew, shows the pixels that the teacher saw.
teacher: the teacher, asked again, says what is stored. Each level includes those before.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from ldkit.cache.generations import Generation
from ldkit.cache.receipts import RowCounts
from ldkit.cache.store import local
from ldkit.cache.verify import Structure, check_bytes, leftovers, read_sealed
from ldkit.errors import CacheCorrupt, CacheError, StorageError, UsageError
from ldkit.jobs import cache_proof
from ldkit.jobs.cache_proof import Fault, Part, Proof
from ldkit.jobs.facts import Fact, Facts, plural, size
from ldkit.jobs.progress import Message, Progress
from ldkit.recipe.schema import Recipe

LEVELS = ("structure", "bytes", "pixels", "teacher")
SHOWN = 3
"""Damaged shards that are told in full."""


@dataclass(frozen=True, slots=True)
class Options:
    """How far to go. `level` None: as far as possible without the teacher."""

    level: str | None = None
    recipe: Recipe | None = None
    views: int = 64
    """Views that the teacher is asked about again."""
    seed: int = 0
    """Decides which."""
    device: str = "auto"

    @property
    def wanted(self) -> tuple[str, ...]:
        """Return the levels to prove, in order.

        Raises:
            UsageError: There is no such level, or it needs a recipe.
        """
        level = self.level or ("bytes" if self.recipe is None else "pixels")
        if level not in LEVELS:
            raise UsageError(
                f"is no level of proof: {level!r}.",
                where="--level",
                hint=f"The levels are {', '.join(LEVELS)}.",
            )
        if self.recipe is None and LEVELS.index(level) >= LEVELS.index("pixels"):
            raise UsageError(
                f"the level {level} needs the data set of the cache.",
                where="--level",
                hint="Name the recipe it was built with: `ldkit cache verify PATH RECIPE`.",
            )
        return LEVELS[: LEVELS.index(level) + 1]


@dataclass
class Report:
    """What was proved, level by level; `error` is why it went no further."""

    facts: dict[str, str | Fact] = field(default_factory=dict)
    error: Fault | None = None

    def add(self, level: str, proof: Proof) -> None:
        """Keep what a level found."""
        proved = proof.error is None
        text = f"{'proved' if proved else 'FAILED'}: {proof.text}"
        self.facts[level] = Fact(text, {"proved": proved, **proof.value})
        if proof.error is not None and self.error is None:
            self.error = _at_level(level, proof.error)


def _at_level(level: str, error: Fault) -> Fault:
    number = LEVELS.index(level) + 1
    message = f"fails at level {number} ({level}): {error.message}"
    return type(error)(message, where=error.where, hint=error.hint)


def run(place: str, options: Options) -> Generator[Message, None, Report]:
    """Yield progress; return what was proved of a cache, up to the first level that fails.

    Both levels that read shards alone are told, whichever fails.
    The cache at a URL is verified in its mirror on this machine.

    Raises:
        UsageError: There is no such level, or it needs a recipe.
        CacheError: There is no sealed cache, or its documents are damaged.
    """
    wanted = options.wanted
    report = Report({"cache": place})
    try:
        sealed = read_sealed(local(place))
    except CacheCorrupt as error:
        report.add("structure", Proof("its documents are not what was written", {}, error))
        return report
    parts = yield from _shards(sealed, wanted, report)
    if "pixels" in wanted and report.error is None and options.recipe is not None:
        yield from _by_recipe(parts, options.recipe, options, report)
    for level in wanted:
        report.facts.setdefault(level, Fact("not reached", {"proved": None}))
    report.facts |= _left_over(sealed)
    return report


def _shards(
    generations: Sequence[Generation], wanted: tuple[str, ...], report: Report
) -> Generator[Message, None, list[Part]]:
    """Prove the levels that read shards alone; return the generations with their keys."""
    total = sum(generation.plan.shards for generation in generations)
    done, parts = 0, []
    structural: list[Fault] = []
    other_bytes: list[Fault] = []
    for sealed in generations:
        structure, before = Structure(sealed), len(structural)
        for number in range(sealed.plan.shards):
            structural += _faults(structure.check, number)
            if "bytes" in wanted:
                other_bytes += _faults(partial(check_bytes, sealed), number)
            done += 1
            yield Progress(done, total, "shards")
        if len(structural) == before:
            try:
                parts.append(Part(sealed, structure.keys()))
            except CacheCorrupt as error:
                structural.append(error)
    report.add("structure", _structure_proof(generations, structural))
    if "bytes" in wanted:
        report.add("bytes", _bytes_proof(generations, other_bytes))
    return parts


def _faults(check: Callable[[int], object], number: int) -> Iterator[Fault]:
    try:
        check(number)
    except (CacheError, StorageError) as error:
        yield error


def _structure_proof(generations: Sequence[Generation], faults: Sequence[Fault]) -> Proof:
    count = sum(each.plan.shards for each in generations)
    views = sum(each.manifest.views for each in generations)
    rows = RowCounts.sum(each.manifest.rows for each in generations).by_group
    value = {"shards": count, "views": views, "rows": rows, "faulty": len(faults)}
    if faults:
        return Proof(f"{len(faults):,} of {plural(count, 'shard')}", value, _first(faults))
    counted = ", ".join(f"{number:,} {name}" for name, number in rows.items())
    return Proof(f"{plural(count, 'shard')}, {plural(views, 'view')}; rows: {counted}", value)


def _bytes_proof(generations: Sequence[Generation], faults: Sequence[Fault]) -> Proof:
    count = sum(each.plan.shards for each in generations)
    total = sum(each.manifest.bytes for each in generations)
    value = {"shards": count, "bytes": total, "faulty": len(faults)}
    if faults:
        return Proof(f"{len(faults):,} of {plural(count, 'shard')}", value, _first(faults))
    return Proof(f"{size(total)} have the sha256 of their receipts", value)


def _first(faults: Sequence[Fault]) -> Fault:
    """Return the first error; it names the places of the next ones, and counts the rest."""
    first, others = faults[0], [fault.where for fault in faults[1:]]
    if not others:
        return first
    told = [f"  and {where}" for where in others[:SHOWN]]
    if len(others) > SHOWN:
        told.append(f"  and {len(others) - SHOWN:,} more")
    message = "\n".join([first.message, *told])
    return type(first)(message, where=first.where, hint=first.hint)


def _by_recipe(
    parts: Sequence[Part], recipe: Recipe, options: Options, report: Report
) -> Generator[Message, None, None]:
    """Prove the levels that need the data set, and the teacher where it is asked for."""
    with_teacher = "teacher" in options.wanted
    evidence = cache_proof.gather(recipe, with_teacher=with_teacher)
    try:
        cache_proof.require_same_sources(parts, evidence)
    except CacheError as error:
        report.add("pixels", Proof("the cache was made from something else", {}, error))
        return
    report.add("pixels", (yield from cache_proof.check_pixels(parts, evidence)))
    if with_teacher and report.error is None:
        asked = cache_proof.sample(parts, options.views, options.seed)
        proof = yield from cache_proof.check_teacher(asked, evidence, options.device)
        report.add("teacher", proof)


def _left_over(generations: Sequence[Generation]) -> Facts:
    root, found = generations[0].folder.path, leftovers(generations)
    if not found:
        return {}
    names = ", ".join(str(path.relative_to(root)) for path in found[:SHOWN])
    more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    text = f"{plural(len(found), 'file')} that no reader looks at: {names}{more}"
    return {"left over": Fact(text, [str(path) for path in found])}
