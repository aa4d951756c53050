"""A second reader, written from docs/cache-format.md alone: no ldkit, no torch, no safetensors."""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np

TYPES = {"I64": "i8", "I32": "i4", "U16": "u2", "U8": "u1", "F16": "f2", "F32": "f4", "BOOL": "?"}


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
    entries = json.loads(content[8:start])
    del entries["__metadata__"]
    columns = {}
    for name, entry in entries.items():
        first, last = (start + offset for offset in entry["data_offsets"])
        flat = np.frombuffer(content[first:last], "<" + TYPES[entry["dtype"]])
        columns[name] = flat.reshape(entry["shape"])
    for name in [name for name in columns if name.endswith(".scale")]:
        step = np.exp2((columns.pop(name).astype("f8") - 176) / 8).astype("f4")
        columns[name[:-6]] = columns[name[:-6]] * -step[..., None]
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
