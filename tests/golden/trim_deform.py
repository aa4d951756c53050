"""Make the golden files of deformable convolutions from the published code's numbers.

Command: python tests/golden/trim_deform.py RECORDINGS

The numbers were made with mmcv 2.1.0 and mmdet 3.3.0 on a CPU, float32. Of the convolutions all
cases are kept. Of the whole R-101-DCN model, whose weights and image follow a rule (see
tests/models/published.py) and are not stored, every eighth channel of the pyramid, the head's
outputs of the first image, the detections, and the figures of losses, gradients and steps.
"""

import json
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
LEVELS = range(5)
FACTS = (
    "H",
    "W",
    "num_params",
    "num_trainable",
    "state_keys",
    "trainable",
    "loss_step0_per_level",
    "grads_step0",
    "sgd_steps",
    "weights_after",
    "sub",
)


def main(fixtures: Path) -> None:
    cases = json.loads((fixtures / "d_deform.json").read_text())["cases"]
    save_file(load_file(fixtures / "d_deform.safetensors"), HERE / "deform_conv.safetensors")
    (HERE / "deform_conv.json").write_text(json.dumps(cases, sort_keys=True) + "\n")

    tensors = load_file(fixtures / "e_model_r101dcn.safetensors")
    facts = json.loads((fixtures / "e_model_r101dcn.json").read_text())
    kept = {name: value for name, value in tensors.items() if name.startswith(("gt.", "pred."))}
    kept |= {name: tensors[name] for name in tensors if name.endswith(".sub")}
    for level in LEVELS:
        kept[f"fpn.l{level}"] = tensors[f"fpn.l{level}"][:, ::8]
        kept[f"cls.l{level}"] = tensors[f"cls.l{level}"]
        kept[f"reg.l{level}"] = tensors[f"reg.l{level}"]
    kept = {name: value.contiguous() for name, value in kept.items()}
    save_file(kept, HERE / "deform_r101dcn.safetensors")
    text = json.dumps({name: facts[name] for name in FACTS}, sort_keys=True)
    (HERE / "deform_r101dcn.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
