"""Images → detections in COCO's form: the part that evaluation and the test server share."""

from collections.abc import Generator, Iterable
from contextlib import closing

import torch

from ldkit.data.coco import CocoIndex
from ldkit.data.dataset import ViewDataset, load_batches
from ldkit.jobs import assemble
from ldkit.jobs.canvases import canvas_batches
from ldkit.jobs.progress import Progress
from ldkit.metrics.results import CocoResult, coco_results
from ldkit.models.gfl import Detector
from ldkit.ops.decode import decode
from ldkit.ops.pixels import normalise
from ldkit.recipe.schema import Recipe
from ldkit.structures import ViewKey, resized_sizes

Found = dict[int, list[CocoResult]]
"""Image id → what was found there, best first."""


def detect(
    model: Detector, index: CocoIndex, recipe: Recipe, device: torch.device
) -> Generator[Progress, None, list[CocoResult]]:
    """Yield progress; return COCO results for every image of the index, in order of image id.

    Each image is shown on its own canvas, so results do not depend on the batch size. The model
    is left in the mode it came in.
    """
    found: Found = {}
    batches = planned_batches(index, recipe)
    with closing(found_in(model, index, recipe, device, batches)) as answers:
        for answer in answers:
            found |= answer
            yield Progress(len(found), len(index.records), "images")
    return in_order(found, index)


def planned_batches(index: CocoIndex, recipe: Recipe) -> list[list[ViewKey]]:
    """Return all images in batches of equal canvas: a pure function of sizes and settings."""
    draw = assemble.view_policy(recipe.views, recipe.seed).draw_plain
    keys = [ViewKey(image_id, 0) for image_id in index.records]
    return canvas_batches(index.records, draw, keys, recipe.eval.batch_size)


def in_order(found: Found, index: CocoIndex) -> list[CocoResult]:
    """Return the results of all images of the index as one list, in order of image id."""
    return [result for image_id in index.records for result in found[image_id]]


@torch.no_grad()
def found_in(
    model: Detector,
    index: CocoIndex,
    recipe: Recipe,
    device: torch.device,
    batches: Iterable[list[ViewKey]],
) -> Generator[Found, None, None]:
    """Yield what is found in the images of each batch; the model is left in the mode it came in."""
    settings = assemble.decode_settings(recipe.eval)
    category_ids = [category.id for category in index.categories]
    draw = assemble.view_policy(recipe.views, recipe.seed).draw_plain
    dataset = ViewDataset(index.records, draw)
    was_training = model.training
    model.eval()
    try:
        for batch in load_batches(dataset, batches, recipe.data.workers, device):
            images = normalise(batch.pixels, resized_sizes(batch.views, device))
            answers = decode(model(images), model.grid, batch.canvas_hw, batch.views, settings)
            yield {
                key.image_id: coco_results({key.image_id: answer}, category_ids)
                for key, answer in zip(batch.keys, answers, strict=True)
            }
    finally:
        model.train(was_training)
