"""Make the golden file of feature imitation from the published code's numbers.

Command: python tests/golden/trim_imitation.py RECORDINGS

The numbers were made with the LD repository at commit 4287990c on a CPU, float32. Features follow
a rule and are made again by the test. Kept are the regions as locations of all levels in one
axis, and for the cases in `GI` what both heads said everywhere.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

HERE = Path(__file__).parent
LEVELS = range(5)
REGIONS = {"fine_grained": "finegrained", "inside_gt": "fitnet"}
"""Our names and theirs, for regions that the ground truth gives alone."""
GI = ("crowded", "single")

Tensors = dict[str, Tensor]


def main(fixtures: Path) -> None:
    facts = json.loads((fixtures / "c_ld_official.json").read_text())
    official = load_file(fixtures / "c_ld_official.safetensors")
    outputs = load_file(fixtures / "c_ld.safetensors")
    kept: Tensors = {}
    cases = {}
    for name, case in facts["cases"].items():
        if "losses" not in case:
            continue
        kept[f"{name}.main"] = _flat(official, f"{name}.region.main").to(torch.uint8)
        losses = {}
        for ours, theirs in REGIONS.items():
            if f"{name}.loss_im.{theirs}" in official:
                losses[ours] = official[f"{name}.loss_im.{theirs}"].tolist()
                region = _flat(official, f"{name}.region.im.{theirs}")
                kept[f"{name}.{ours}"] = region.to(torch.uint8)
        if name in GI:
            losses["gi"] = official[f"{name}.loss_im.gibox"].tolist()
            for column in ("cls", "reg", "t_cls", "t_reg"):
                kept[f"{name}.{column}"] = _flat_maps(outputs, f"{name}.{column}")
        cases[name] = {"seed": case["index"], "losses": losses}
    save_file(kept, HERE / "imitation.safetensors")
    whole = {"canvas_hw": [facts["H"], facts["W"]], "cases": cases}
    (HERE / "imitation.json").write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")


def _flat(tensors: Tensors, key: str) -> Tensor:
    return torch.cat([tensors[f"{key}.l{level}"] for level in LEVELS], dim=1)


def _flat_maps(tensors: Tensors, key: str) -> Tensor:
    """Return the maps of all levels (B, channels, rows, columns) as (B, A, channels)."""
    maps = [tensors[f"{key}.l{level}"] for level in LEVELS]
    return torch.cat([one.flatten(2).transpose(1, 2) for one in maps], dim=1).contiguous()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
