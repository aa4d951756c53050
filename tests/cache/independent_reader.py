"""A second reader, written from docs/cache-format.md alone: no ldkit, no torch, no safetensors."""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np

TYPES = {"I64": "<i8", "I32": "<i4", "U16": "<u2", "F16": "<f2", "F32": "<f4", "BOOL": "?"}


def document(path: Path) -> dict:
    first, body = path.read_bytes().split(b"\n", 1)
    if first != b'{"digest":"' + hashlib.sha256(body).hexdigest().encode() + b'",':
        raise ValueError(f"{path}: not what was written")
    return {**json.loads(b"{" + body), "digest": first[11:-2].decode()}


def shard(path: Path, receipt: dict) -> dict[str, np.ndarray]:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != receipt["sha256"]:
        raise ValueError(f"{path}: not what was written")
    start = 8 + struct.unpack_from("<Q", content)[0]
    columns = {}
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            flat = np.frombuffer(content[start + first : start + last], TYPES[entry["dtype"]])
            columns[name] = flat.reshape(entry["shape"])
    return columns


def views(folder: Path) -> dict[tuple[int, int], dict[str, np.ndarray]]:
    """Return key → column → what is stored of that view, for a whole cache."""
    manifest, plan = document(folder / "manifest.json"), document(folder / "plan.json")
    if manifest["plan"] != plan["digest"] or {manifest["version"], plan["version"]} != {1}:
        raise ValueError(f"{folder}: its documents do not belong together")
    found = {}
    for number, receipt in enumerate(manifest["receipts"]):
        columns = shard(folder / "shards" / f"{number:06d}.safetensors", receipt)
        for v in range(receipt["views"]):
            here = {name: column[v] for name, column in columns.items() if name[:5] == "view."}
            for name, column in columns.items():
                group, part = name.split(".")
                if group != "view" and part != "offsets":
                    first, last = columns[f"{group}.offsets"][v : v + 2]
                    here[name] = column[first:last]
            found[int(here["view.image_id"]), int(here["view.index"])] = here
    return found


def cell(location: int, canvas_hw: tuple[int, int], strides: list[int]) -> tuple[int, int, int]:
    """Return (level, row, column) of a location."""
    for level, stride in enumerate(strides):
        rows, cols = (-(-side // stride) for side in canvas_hw)
        if location < rows * cols:
            return level, location // cols, location % cols
        location -= rows * cols
    raise ValueError("a location beyond its canvas")
