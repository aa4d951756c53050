"""What a cache would be: views, rows and bytes of each group, before anything is written.

Rows of regions are counted from boxes and anchors. The locations that a teacher scores are counted
by asking it about a few views.
"""

from collections.abc import Mapping

from ldkit.cache.compare import require_same_plan
from ldkit.cache.folder import CacheFolder, missing_shards, read_document
from ldkit.cache.format import Plan
from ldkit.data.dataset import ViewDataset, load_batches
from ldkit.jobs import assemble, coverage
from ldkit.jobs.build_cache import Order, load_teacher, order, sections
from ldkit.jobs.canvases import canvas_batches
from ldkit.jobs.facts import Fact, Facts, aligned, size
from ldkit.jobs.size_estimate import sample
from ldkit.jobs.teacher_rows import rows_of_group
from ldkit.models.gfl import Detector
from ldkit.recipe.schema import Recipe

ASKED_VIEWS = 8
"""Views that the teacher is asked about where its scores decide the size."""


def outline(recipe: Recipe, device: str = "auto") -> Facts:
    """Return what a build would do: views, shards, disk of each group beside the dense size.

    Raises:
        LdkitError: What the build would raise before its first shard.
    """
    place = assemble.device(device)
    todo = order(recipe)
    rows = dict(todo.size.rows)
    if "score" in rows:
        layout = recipe.train.channels_last
        rows |= scored(todo, load_teacher(sections(recipe)[1], place, channels_last=layout))
    views, images = todo.plan.keys.count, len(todo.material.records)
    weights = {group.name: rows[group.name] * group.row_bytes for group in todo.plan.groups}
    shards = todo.plan.shards
    missing = _missing(todo)
    return {
        "cache": str(todo.folder),
        "views": Fact(f"{views:,} of {images:,} images", {"count": views, "images": images}),
        "rows per view": _rows(rows, todo.size.locations),
        "disk": _disk(views, sum(weights.values())),
        "disk by group": _groups(views, weights),
        "dense": _disk(views, todo.dense_bytes_per_view),
        "shards": Fact(f"{missing:,} to build of {shards:,}", {"missing": missing, "of": shards}),
        "device": str(place),
    }


def _missing(todo: Order) -> int:
    begun = CacheFolder(todo.folder)
    if not begun.plan.is_file():
        return todo.plan.shards
    plan = read_document(begun.plan, Plan)
    require_same_plan(plan, todo.plan, todo.folder)
    return len(missing_shards(begun, plan))


def scored(todo: Order, teacher: Detector) -> dict[str, float]:
    """Return the mean rows of the scored locations and of their classes, from a few views."""
    device = next(teacher.parameters()).device
    material, limit = todo.material, todo.plan.build.batch_size
    keys = sample(todo.keys, ASKED_VIEWS)
    batches = canvas_batches(material.records, material.draw, keys, limit)
    asked = coverage.everything(todo.plan.coverage, todo.plan.columns)
    rows = classes = 0
    dataset = ViewDataset(material.records, material.draw)
    for batch in load_batches(dataset, batches, workers=0, device=device):
        score = rows_of_group(teacher, batch, asked).score
        assert score is not None
        rows, classes = rows + len(score.location), classes + len(score.logit)
    return {"score": rows / len(keys), "score_class": classes / len(keys)}


def _rows(rows: Mapping[str, float], locations: float) -> Fact:
    counted = ", ".join(f"{name} {count:,.1f}" for name, count in rows.items())
    return Fact(f"{counted} of {locations:,.0f} locations", {**rows, "locations": locations})


def _groups(views: int, bytes_per_view: Mapping[str, float]) -> Fact:
    text = aligned({name: size(views * each) for name, each in bytes_per_view.items()})
    return Fact(text, {name: round(views * each) for name, each in bytes_per_view.items()})


def _disk(views: int, bytes_per_view: float) -> Fact:
    total = views * bytes_per_view
    text = f"about {size(total)}, {size(bytes_per_view)} a view"
    return Fact(text, {"bytes": round(total), "bytes_per_view": round(bytes_per_view)})
