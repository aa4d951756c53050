"""Which views the generations of a cache hold."""

from collections.abc import Sequence
from pathlib import Path

from ldkit.cache.content import name_of
from ldkit.cache.format import keys_digest
from ldkit.cache.generations import Generation, stored_keys
from ldkit.errors import CacheCoverage
from ldkit.structures import ViewKey


def missing_views(generations: Sequence[Generation], keys: Sequence[ViewKey]) -> list[ViewKey]:
    """Return which of these sorted keys none of the generations holds.

    Raises:
        CacheCorrupt: The views of a generation are not those of its plan.
        FileNotFoundError: A shard is not there.
    """
    if not generations:
        return list(keys)
    digest = keys_digest(keys)
    if any(generation.plan.keys.digest == digest for generation in generations):
        return []
    held = {ViewKey(*key) for each in generations for key in stored_keys(each).tolist()}
    return [key for key in keys if key not in held]


def require_views(
    folder: Path, groups: Sequence[str], generations: Sequence[Generation], keys: Sequence[ViewKey]
) -> None:
    """Check that these generations together hold all of these sorted keys; `groups` are told.

    Raises:
        CacheCoverage: They do not.
    """
    missing = missing_views(generations, keys)
    if missing:
        raise CacheCoverage(
            f"holds no rows of {', '.join(groups)} for {len(missing):,} of {len(keys):,} views "
            f"that this recipe shows, such as {name_of(missing[0])}.",
            where=str(folder),
            hint="Add them (`ldkit cache-logits RECIPE --extend`), or build a new cache "
            "(`--out caches/NAME`).",
        )
