"""Finding and opening the cache that a student reads."""

from pathlib import Path

from ldkit.cache.compare import require_fit
from ldkit.cache.folder import CacheFolder
from ldkit.cache.reader import CacheReader
from ldkit.cache.store import local
from ldkit.errors import UsageError
from ldkit.jobs import coverage, sources
from ldkit.jobs.fit_check import check_student, teacher_path
from ldkit.jobs.material import Material
from ldkit.models.checkpoint_file import read_model
from ldkit.recipe.detector import SmallBackbone, TimmBackbone
from ldkit.recipe.schema import Recipe


def open_cache(recipe: Recipe, material: Material) -> CacheReader:
    """Return the recipe's cache: sealed, with all that its objective reads, of this teacher.

    A teacher's file that is not there is no obstacle: the cache stands for it.

    Raises:
        CacheError: The cache is incomplete, damaged, of something else, or lacks rows.
    """
    if recipe.cache is None:
        raise UsageError(
            "has no `cache` section, so there are no teacher rows to learn from.",
            where=recipe.name,
            hint="Name a cache with `--cache FOLDER`, or run the teacher beside the student with "
            "`--online`.",
        )
    folder = local(recipe.cache.path)
    wanted = coverage.wanted(recipe)
    reader = CacheReader.open_(folder, wanted)
    cached = reader.plan.sources
    path = teacher_path(recipe)
    if path.is_file():
        file = read_model(path)
        check_student(recipe, file, path, material.index)
        ours = sources.sources(recipe, material.index, file, path)
    else:
        ours = cached.model_copy(
            update={
                "data": sources.data_source(recipe, material.index),
                "views": sources.views_source(recipe),
                "render": sources.render_source(),
            }
        )
    axes = sources.axes(recipe.detector, len(material.index.categories))
    require_fit(reader.plans, ours, axes, wanted, folder)
    reader.require_keys(sources.planned_keys(recipe, list(material.records)))
    return reader


def backbone_of(place: str) -> TimmBackbone | SmallBackbone:
    """Return the backbone of the teacher that a sealed cache, or one at a URL, was made with.

    Raises:
        CacheError: The cache is not sealed, damaged, or of another version.
    """
    folder = local(place)
    reader = CacheReader.open_(folder)
    return sources.cached_detector(reader.plan.sources.model, folder).backbone


def only_sealed_cache(root: Path) -> Path:
    """Return the one sealed cache below `root`.

    Raises:
        UsageError: There is none, or there are several; the message lists them.
    """
    found = sorted(path.parent for path in root.glob("*/plan.json"))
    sealed = [path for path in found if CacheFolder(path).manifest.is_file()]
    if len(sealed) == 1:
        return sealed[0]
    if sealed:
        listing = "\n".join(f"  {path}" for path in sealed)
        raise UsageError(
            f"holds {len(sealed)} sealed caches:\n{listing}",
            where=str(root),
            hint="Name one with `--cache FOLDER`.",
        )
    if found:
        raise UsageError(
            f"holds no sealed cache; unfinished: {', '.join(str(path) for path in found)}.",
            where=str(root),
            hint="Finish it by the command that began it, `ldkit cache-logits ...`.",
        )
    raise UsageError(
        "holds no sealed cache.",
        where=str(root),
        hint="Build one with `ldkit cache-logits --teacher FILE`, name one with "
        "`--cache FOLDER`, or run the teacher beside the student with `--online --teacher FILE`.",
    )
