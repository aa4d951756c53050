"""The cache section: what is kept of the teacher, for which rows, and how."""

from typing import Literal

from pydantic import PositiveInt

from ldkit.recipe.section import PositiveFloat, Section

Codec = Literal["fp32", "fp16"]
BoxCodec = Literal["fp32", "fp16", "u8"]


class RowColumns(Section):
    """What the cache keeps of the rows of a region."""

    bbox_logits: BoxCodec = "fp16"
    """How the box distributions are stored. fp16 is the exact mode, u8 takes about half of it."""
    cls_logits: Codec | None = "fp16"
    """How the class logits are stored; null stores none."""


class VlrColumns(Section):
    """What the cache keeps of the VLR (`objective.vlr`): some 13 times the rows of main."""

    bbox_logits: BoxCodec = "u8"
    """How the box distributions are stored. u8 takes about half of fp16, the exact mode."""
    cls_logits: Codec | None = None
    """How the class logits are stored; null stores none."""


class FeatureColumns(Section):
    """The teacher's pyramid features, for imitation."""

    region: Literal["main", "inside_gt", "fine_grained"]
    """Where they are kept."""
    features: Codec = "fp16"
    """How they are stored: one number for each channel."""


class ScoreColumns(Section):
    """The locations that the teacher scores (`objective.score`), with the classes it scores."""

    bbox_logits: BoxCodec = "fp16"
    """How the box distributions are stored. u8 takes about half of fp16, the exact mode."""
    cls_logits: Codec = "fp16"
    """How the logits of the classes above the floor are stored."""


class CrossColumns(Section):
    """Mean and deviation of the teacher's head features, for CrossKD."""

    after: PositiveInt = 3
    """Convolutions of the towers before them."""
    statistics: Codec = "fp32"
    """How they are stored: 4 numbers for each level and channel of a view."""


class Cache(Section):
    """The teacher cache. A null section stores no such rows."""

    path: str
    """Its folder."""
    main: RowColumns = RowColumns()
    vlr: VlrColumns | None = None
    imitation: FeatureColumns | None = None
    score: ScoreColumns | None = None
    cross: CrossColumns | None = None
    shard_mb: PositiveFloat = 64.0
    """Size of a shard, in MB; also the most that an interrupted build loses."""
    batch_size: PositiveInt = 4
    """Views that the teacher sees at once (only views of equal padded size)."""
