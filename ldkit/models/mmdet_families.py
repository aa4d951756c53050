"""Which detector a checkpoint holds, by the names of its tensors; and a refusal of all but GFL.

GFLv2 has the names of GFL and a few more.
"""

import re
from collections.abc import Iterable

from ldkit.errors import CheckpointError

READS = "`ldkit teacher import` reads GFL, GFLv2 and LD checkpoints of mmdetection (2.x and 3.x)."
_EXPECTED = "bbox_head.gfl_cls.weight"

# Names that give a family away, the more particular ones first.
_FAMILIES = (
    (r"(rpn_head|roi_head|bbox_head\.shared_fcs|roi_heads)\.", "a two-stage detector (R-CNN)"),
    (r"bbox_head\.(conv_centerness|fcos_centerness)\.", "FCOS"),
    (r"bbox_head\.atss_cls\.", "ATSS"),
    (r"bbox_head\.retina_cls\.", "RetinaNet"),
    (r"bbox_head\.vfnet_cls\.", "VarifocalNet"),
    (r"bbox_head\.tood_cls\.", "TOOD"),
    (
        r"(bbox_head\.(convs_pred|multi_level_conv|head_module)|model\.\d+|model\.model\.\d+)",
        "YOLO",
    ),
    (r"((bbox_head\.|model\.)?(transformer|query_embed\w*|encoder|decoder)\.)", "DETR"),
    (r"backbone\.body\.", "a detector of torchvision"),
    (r"(fc|head|head\.fc|classifier)\.(weight|bias|\d)", "a classification network"),
)


def refuse_other_families(names: Iterable[str], where: str) -> None:
    """Check by its names that a state is that of a GFL detector.

    Raises:
        CheckpointError: It is another detector; the message says what was seen.
    """
    known = list(names)
    if _EXPECTED in known:
        return
    for pattern, family in _FAMILIES:
        seen = next((name for name in known if re.match(pattern, name)), None)
        if seen is not None:
            raise CheckpointError(
                f"is not a GFL detector but {family}: it has {seen}, and no {_EXPECTED}.",
                where=where,
                hint=READS,
            )
    some = ", ".join(known[:3]) or "nothing"
    raise CheckpointError(
        f"is not a GFL detector: it has {len(known)} tensors ({some}, …), but no {_EXPECTED}.",
        where=where,
        hint=READS,
    )
