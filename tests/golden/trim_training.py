"""Make the golden files of training and metrics from the full reference numbers.

    python tests/golden/trim_training.py FOLDER_OF_FIXTURES

g_lr keeps the warm-up, the neighbourhood of every milestone and each 97th step; g_eval keeps
the twelve figures, AP of each class and at each threshold, with its two input files.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

GOLDEN = Path(__file__).parent
RUNS = ("1x_lr0.00125_ipe700", "2x_lr0.01_ipe50")


def trim_lr(fixtures: Path) -> None:
    source = json.loads((fixtures / "g_lr.json").read_text())
    rates = load_file(fixtures / "g_lr.safetensors")
    tensors, runs = {}, {}
    for name in RUNS:
        run = source["runs"][name]
        scheduler = source["configs"][name[:2]]["param_scheduler"][1]
        runs[name] = {
            "base_lr": run["base_lr"],
            "epochs": run["epochs"],
            "steps_per_epoch": run["iters_per_epoch"],
            "milestones": scheduler["milestones"],
            "factor": scheduler["gamma"],
        }
        rate = rates[f"{name}.lr"]
        turns = [epoch * run["iters_per_epoch"] for epoch in scheduler["milestones"]]
        steps = {*range(0, len(rate), 97), *range(0, 520, 7), 498, 499, 500, len(rate) - 1}
        steps |= {turn + offset for turn in turns for offset in (-1, 0, 1)}
        tensors[f"{name}.step"] = np.array(sorted(steps), dtype=np.int64)
        tensors[f"{name}.lr"] = rate[tensors[f"{name}.step"]]
    save_file(tensors, GOLDEN / "g_lr.safetensors")
    document = {"runs": runs, "versions": source["versions"]}
    (GOLDEN / "g_lr.json").write_text(json.dumps(document, indent=1) + "\n")


def trim_eval(fixtures: Path) -> None:
    source = json.loads((fixtures / "g_eval.json").read_text())
    precision_TRC = load_file(fixtures / "g_eval.safetensors")["precision_all_m100"]
    by_threshold = [float(plane[plane > -1].mean()) for plane in precision_TRC]
    kept = {key: source[key] for key in ("stats", "per_class_AP", "cat_ids", "versions")}
    document = {**kept, "ap_by_iou": by_threshold}
    (GOLDEN / "g_eval.json").write_text(json.dumps(document, indent=1) + "\n")
    for name in ("g_eval_gt.json", "g_eval_dets.json"):
        shutil.copyfile(fixtures / name, GOLDEN / name)


if __name__ == "__main__":
    trim_lr(Path(sys.argv[1]))
    trim_eval(Path(sys.argv[1]))
