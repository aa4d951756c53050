"""What a run trains on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ldkit.data.coco import CocoIndex, Record, training_records
from ldkit.data.dataset import DrawView
from ldkit.jobs import assemble
from ldkit.jobs.benchmark import Benchmark, benchmark, check_classes
from ldkit.recipe.schema import Recipe
from ldkit.structures import ViewKey

Lead = Callable[[list[list[ViewKey]]], Iterable[list[ViewKey]]]
"""From the batches of an epoch to the same ones, while what the next ones need is made ready."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a run trains on: the index, the images that qualify, and how their views are drawn.

    `validation` is what the run is evaluated on along its way, if it is.
    """

    index: CocoIndex
    records: dict[int, Record]
    draw: DrawView
    validation: Benchmark | None = None
    lead: Lead = list

    @classmethod
    def of(cls, recipe: Recipe) -> "Material":
        """Return the recipe's training images, with views drawn by its policy."""
        index = assemble.index(recipe.data, recipe.data.train)
        policy = assemble.view_policy(recipe.views, recipe.seed)
        return cls(index, training_records(index), policy.draw)

    def drawn_by(self, draw: DrawView, lead: Lead = list) -> "Material":
        """Return the same images with another source of views, which may like to be ahead."""
        return replace(self, draw=draw, lead=lead)

    def with_validation(self, recipe: Recipe, model: Path) -> "Material":
        """Return the same with the images to evaluate on, where the recipe asks for it.

        Raises:
            DataError: They are not right, or their classes are not the training images'.
        """
        if recipe.eval.every_epochs is None or recipe.data.val is None:
            return self
        validation = benchmark(recipe.data, "val", recipe.data.val)
        check_classes(validation.index, self.index.class_names, model)
        return replace(self, validation=validation)
