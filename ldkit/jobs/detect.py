"""Images → detections in COCO's form: the part that evaluation and the test server share."""

from collections.abc import Generator

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
from ldkit.structures import Detections, ViewKey, resized_sizes


@torch.no_grad()
def detect(
    model: Detector, index: CocoIndex, recipe: Recipe, device: torch.device
) -> Generator[Progress, None, list[CocoResult]]:
    """Yield progress; return COCO results for every image of the index, in order of image id.

    Each image is shown on its own canvas, so results do not depend on the batch size. The model
    is left in the mode it came in.
    """
    policy = assemble.view_policy(recipe.views, recipe.seed)
    keys = [ViewKey(image_id, 0) for image_id in index.records]
    draw = policy.draw_plain
    planned = canvas_batches(index.records, draw, keys, recipe.eval.batch_size)
    settings = assemble.decode_settings(recipe.eval)
    found: dict[int, Detections] = {}
    dataset = ViewDataset(index.records, draw)
    was_training = model.training
    model.eval()
    try:
        for batch in load_batches(dataset, planned, recipe.data.workers, device):
            images = normalise(batch.pixels, resized_sizes(batch.views, device))
            answers = decode(model(images), model.grid, batch.canvas_hw, batch.views, settings)
            found.update(zip([key.image_id for key in batch.keys], answers, strict=True))
            yield Progress(len(found), len(keys), "images")
    finally:
        model.train(was_training)
    ordered = {image_id: found[image_id] for image_id in index.records}
    return coco_results(ordered, [category.id for category in index.categories])
