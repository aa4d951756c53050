"""Make the golden file of the whole R-18 model from the published code's numbers.

Command: python tests/golden/trim_models.py RECORDINGS

The numbers were made with mmdet 3.3.0 on a CPU, float32, from weights and an image that follow a
rule (see tests/models/published.py) and are not stored. Kept are every fourth channel of the
pyramid, the head's outputs of the first image, and all figures of the losses, gradients and steps.
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
    "state_keys",
    "trainable",
    "loss_step0_per_level",
    "grads_step0",
    "sgd_steps",
    "weights_after",
    "sub",
)


def main(fixtures: Path) -> None:
    tensors = load_file(fixtures / "e_model_r18.safetensors")
    facts = json.loads((fixtures / "e_model_r18.json").read_text())
    kept = {name: value for name, value in tensors.items() if name.startswith(("gt.", "pred."))}
    kept |= {name: tensors[name] for name in tensors if name.endswith(".sub")}
    for level in LEVELS:
        kept[f"fpn.l{level}"] = tensors[f"fpn.l{level}"][:, ::4]
        kept[f"cls.l{level}"] = tensors[f"cls.l{level}"]
        kept[f"reg.l{level}"] = tensors[f"reg.l{level}"]
    kept = {name: value.contiguous() for name, value in kept.items()}
    save_file(kept, HERE / "models_r18.safetensors")
    text = json.dumps({name: facts[name] for name in FACTS}, sort_keys=True)
    (HERE / "models_r18.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
