"""Make the golden files of data from the published pipeline's numbers.

Command: python tests/golden/trim_data.py RECORDINGS

The numbers were made with mmdet 3.3.0, mmcv 2.1.0 and OpenCV 4.10. Kept: the four pictures, all
boxes, the digest of every resized image, and of pixels every n-th in both directions, until an
array has about eight thousand entries.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
ENTRIES = 8_000

Arrays = dict[str, np.ndarray]
FACTS = ("png", "scale", "flip", "img_shape", "pad_shape", "batch_sum", "resized_sha256")


def main(fixtures: Path) -> None:
    for picture in sorted((fixtures / "f_png").glob("*.png")):
        shutil.copyfile(picture, HERE / f"data_{picture.name}")
    facts = json.loads((fixtures / "f_preproc.json").read_text(encoding="utf-8"))
    arrays = load_file(fixtures / "f_preproc.safetensors")
    kept: Arrays = {}
    cases: dict[str, Any] = {}
    for name, case in facts["cases"].items():
        strides = case["sub_stride"] if name != "pair" else {"batch": case["sub_stride"]}
        cases[name] = {key: case[key] for key in (*FACTS, "of") if key in case}
        for column, stride in strides.items():
            array = arrays[f"{name}.{column}" if stride == 1 else f"{name}.{column}_sub"]
            rows, cols = (0, 1) if column == "resized" else (2, 3)
            step = _step(array.size)
            thin = [slice(None)] * array.ndim
            thin[rows] = thin[cols] = slice(None, None, step)
            kept[f"{name}.{column}"] = np.ascontiguousarray(array[tuple(thin)])
            cases[name][f"{column}_stride"] = stride * step
        for column in ("boxes_in", "boxes"):
            if f"{name}.{column}" in arrays:
                kept[f"{name}.{column}"] = arrays[f"{name}.{column}"]
    save_file(kept, HERE / "data_views.safetensors")
    _write(HERE / "data_views.json", {"pad_multiple_px": facts["pad_size_divisor"], "cases": cases})
    sizes = load_file(fixtures / "f_sizes.safetensors")["rows"]
    save_file({"rows": sizes.astype(np.int16)}, HERE / "data_sizes.safetensors")


def _step(entries: int) -> int:
    return max(1, round((entries / ENTRIES) ** 0.5))


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
