"""Make the golden files of ops and objectives from the published code's numbers.

Command: python tests/golden/trim_ops.py RECORDINGS

The numbers were made on a CPU in float32: those of `ops_vlr` with the LD repository at commit
4287990c, all others with mmdet 3.3.0 and mmcv 2.1.0. This script puts them into
our layout (locations of all levels in one axis) and leaves out what plays no part: box logits and
their gradients are kept where the published gradient is not zero, which is the region of a term.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

HERE = Path(__file__).parent
LEVELS = range(5)
DECODED = ("aniso", "batch2", "c80", "none", "thr0", "topk100")
TIED = "border"
"""A case whose published positives hang on the order in which torch.topk returns ties."""

VLR = ("vlr", "vlr_true_diou")
IMITATED = ("im.fitnet", "im.finegrained")
VLR_LOSSES = ("loss_ld", "loss_ld_vlr", "loss_ld_vlr_true_diou", "loss_kd", "kd_vlr_unmuted")

Tensors = dict[str, Tensor]


def main(fixtures: Path) -> None:
    trim_assignment(*_read(fixtures, "a_assign_160x192"))
    trim_losses("ops_losses", ("loss_bbox", "loss_dfl"), *_read(fixtures, "b_losses_small"))
    trim_losses("ops_ld", ("loss_ld",), *_read(fixtures, "c_ld"))
    trim_regions(*_read(fixtures, "c_ld"), *_read(fixtures, "c_ld_official"))
    trim_decoding(*_read(fixtures, "d_decode"))
    trim_nms(*_read(fixtures, "d_nms"))


def trim_assignment(tensors: Tensors, facts: dict[str, Any]) -> None:
    kept: Tensors = {}
    cases = {}
    for name, case in facts["cases"].items():
        cases[name] = _case(case) | {"tie_gts": case["tie_gts"], "num_pos": case["num_pos"]}
        for image in range(len(case["images"])):
            kept |= _ground_truth(tensors, name, image)
            key = f"{name}.img{image}.assigned_gt_inds"
            kept[key] = tensors[key].to(torch.uint8)
    _write("ops_assign", kept, {"canvas_hw": [facts["H"], facts["W"]], "cases": cases})


def trim_losses(name: str, box_losses: tuple[str, ...], tensors: Tensors, facts: Any) -> None:
    kept: Tensors = {}
    cases = {}
    for case_name, case in facts["cases"].items():
        if case_name == TIED:
            continue
        cases[case_name] = _case(case) | {"losses": case["losses"], "total": case["total"]}
        for image in range(len(case["images"])):
            kept |= _ground_truth(tensors, case_name, image)
        kept[f"{case_name}.cls"] = _flat(tensors, f"{case_name}.cls")
        if f"{case_name}.grad.loss_cls.l0" in tensors:
            kept[f"{case_name}.grad.loss_cls"] = _flat(tensors, f"{case_name}.grad.loss_cls")
        gradients = {loss: _flat(tensors, f"{case_name}.grad.{loss}") for loss in box_losses}
        rows = sum((gradient != 0).any(dim=-1) for gradient in gradients.values()).nonzero()
        kept[f"{case_name}.rows"] = rows.to(torch.int16)
        for column in ("reg", "t_reg"):
            if f"{case_name}.{column}.l0" in tensors:
                logits = _flat(tensors, f"{case_name}.{column}")
                kept[f"{case_name}.{column}"] = logits[rows[:, 0], rows[:, 1]]
        for loss, gradient in gradients.items():
            kept[f"{case_name}.grad.{loss}"] = gradient[rows[:, 0], rows[:, 1]]
    _write(name, kept, {"canvas_hw": [facts["H"], facts["W"]], "cases": cases})


def trim_regions(inputs: Tensors, facts: dict[str, Any], tensors: Tensors, _: Any) -> None:
    """Keep the regions whole, and what the networks said at the rows of any of main and VLR."""
    kept: Tensors = {}
    cases = {}
    for name, case in facts["cases"].items():
        if f"{name}.region.vlr.l0" not in tensors:
            continue
        losses = {loss: tensors[f"{name}.{loss}"].tolist() for loss in VLR_LOSSES}
        cases[name] = _case(case) | {"losses": losses}
        for image in range(len(case["images"])):
            kept |= _ground_truth(inputs, name, image)
        kept |= _regions(tensors, name)
        regions = [kept[f"{name}.region.{region}"] > 0 for region in ("main", *VLR)]
        rows = torch.stack(regions).any(dim=0).nonzero()
        kept[f"{name}.rows"] = rows.to(torch.int16)
        for column in ("cls", "t_cls", "reg", "t_reg"):
            kept[f"{name}.{column}"] = _flat(inputs, f"{name}.{column}")[rows[:, 0], rows[:, 1]]
        for loss in ("loss_ld_vlr", "loss_kd"):
            if f"{name}.grad.{loss}.l0" in tensors:
                gradient = _flat(tensors, f"{name}.grad.{loss}")[rows[:, 0], rows[:, 1]]
                kept[f"{name}.grad.{loss}"] = gradient
    _write("ops_vlr", kept, {"canvas_hw": [facts["H"], facts["W"]], "cases": cases})


def trim_decoding(tensors: Tensors, facts: dict[str, Any]) -> None:
    kept: Tensors = {}
    cases = {name: facts["cases"][name] for name in DECODED}
    for name, case in cases.items():
        kept[f"{name}.cls"] = _flat(tensors, f"{name}.cls")
        kept[f"{name}.reg"] = _flat(tensors, f"{name}.reg")
        for image in range(len(case["metas"])):
            for column in ("boxes", "scores", "labels"):
                key = f"{name}.img{image}.final.{column}"
                kept[key] = tensors[key]
    _write("ops_decode", kept, {"cases": cases})


def trim_nms(tensors: Tensors, facts: dict[str, Any]) -> None:
    cases = {name: case for name, case in facts["cases"].items() if case["n"] < 1000}
    kept = {key: value for key, value in tensors.items() if key.split(".")[0] in cases}
    _write("ops_nms", kept, {"cases": cases})


def _read(fixtures: Path, name: str) -> tuple[Tensors, Any]:
    facts = json.loads((fixtures / f"{name}.json").read_text())
    return load_file(fixtures / f"{name}.safetensors"), facts


def _write(name: str, tensors: Tensors, facts: dict[str, Any]) -> None:
    contiguous = {key: value.contiguous() for key, value in sorted(tensors.items())}
    save_file(contiguous, HERE / f"{name}.safetensors")
    (HERE / f"{name}.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def _case(case: dict[str, Any]) -> dict[str, Any]:
    return {"padded_hw": [image["pad_shape"][:2] for image in case["images"]]}


def _ground_truth(tensors: Tensors, case: str, image: int) -> Tensors:
    keys = [f"{case}.img{image}.{column}" for column in ("gt_boxes", "gt_labels")]
    return {key: tensors[key] for key in keys}


def _regions(tensors: Tensors, case: str) -> Tensors:
    """Return the recorded regions of a case; the maps of all levels become (B, A)."""
    keys = [f"{case}.region.{region}" for region in ("main", *VLR, *IMITATED)]
    return {
        key: torch.cat([tensors[f"{key}.l{level}"] for level in LEVELS], dim=1)
        for key in keys
        if f"{key}.l0" in tensors
    }


def _flat(tensors: Tensors, key: str) -> Tensor:
    """Return the maps of all levels (B, channels, rows, columns) as (B, A, channels)."""
    maps = [tensors[f"{key}.l{level}"] for level in LEVELS]
    return torch.cat([one.flatten(2).transpose(1, 2) for one in maps], dim=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
