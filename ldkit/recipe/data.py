"""The data section of a recipe: where images and boxes are, in COCO's form or in Pascal VOC's."""

from typing import Annotated, Literal

from pydantic import Discriminator, Tag, model_validator
from pydantic import NonNegativeInt as Count

from ldkit.recipe.section import Section


class CocoSplit(Section):
    """One set of images."""

    kind: Literal["coco"] = "coco"
    """One folder of images and one COCO JSON."""
    images: str
    """Folder of the images, below `data.root`."""
    annotations: str
    """COCO JSON, below `data.root`."""


class VocSplit(Section):
    """One set of images, the union of image sets of Pascal VOC."""

    kind: Literal["voc"]
    """Folders of a VOCdevkit; AP is that of VOC 2007 at ten IoU thresholds."""
    sets: tuple[str, ...]
    """FOLDER/SET, below `data.root`: VOC2007/trainval is listed in VOC2007/ImageSets/Main."""

    @model_validator(mode="after")
    def _check(self) -> "VocSplit":
        if not self.sets or any(not all(name.rpartition("/")) for name in self.sets):
            raise ValueError("sets: must name sets as FOLDER/SET, such as [VOC2007/trainval].")
        return self


def split_kind(value: object) -> str:
    """Return which section a split is: what its `kind` says, "coco" where it says nothing."""
    match value:
        case VocSplit():
            return "voc"
        case {"kind": str(kind)}:
            return kind
        case _:
            return "coco"


Split = Annotated[
    Annotated[CocoSplit, Tag("coco")] | Annotated[VocSplit, Tag("voc")],
    Discriminator(split_kind),
]


class Data(Section):
    """Where the images are."""

    root: str = "data/coco"
    """Folder that holds the data set."""
    train: Split = CocoSplit(images="train2017", annotations="annotations/instances_train2017.json")
    val: Split | None = CocoSplit(
        images="val2017", annotations="annotations/instances_val2017.json"
    )
    test_dev: CocoSplit | None = None
    """Images without annotations, for a test server."""
    bad_boxes: Literal["refuse", "drop"] = "refuse"
    """What to do with boxes that lie outside their image or have a negative size."""
    workers: Count = 2
    """Processes that load images; 0 loads in the main process."""
