"""Small COCO data sets on disk, and pictures in formats that people really have."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np

Row = dict[str, Any]


def categories() -> list[Row]:
    """Three classes with ids as in COCO: from 1, not in order, with gaps."""
    return [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]


def image(image_id: int, hw: tuple[int, int] = (40, 60)) -> Row:
    name = f"{image_id:06d}.png"
    return {"id": image_id, "file_name": name, "height": hw[0], "width": hw[1]}


def annotation(annotation_id: int, image_id: int, bbox: list[float], **fields: Any) -> Row:
    row: Row = {"id": annotation_id, "image_id": image_id, "category_id": 1, "bbox": bbox}
    return row | {"area": bbox[2] * bbox[3], "iscrowd": 0} | fields


def write_json(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def write_coco(root: Path, images: list[Row], annotations: list[Row]) -> tuple[Path, Path]:
    """Write pictures and annotations; return the image folder and the JSON file."""
    folder = root / "images"
    folder.mkdir(exist_ok=True)
    for row in images:
        write_picture(folder / row["file_name"], (row["height"], row["width"]), seed=row["id"])
    document = {"images": images, "annotations": annotations, "categories": categories()}
    return folder, write_json(root / "instances.json", document)


def write_picture(path: Path, hw: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Write noise as a picture; return it as RGB."""
    rgb = np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)
    cv2.imwrite(str(path), rgb[:, :, ::-1])
    return rgb


def encoded(pixels: np.ndarray, ending: str) -> bytes:
    """Return pixels (grey, BGR or BGRA; 8 or 16 bits) in a file format."""
    _, content = cv2.imencode(ending, pixels)
    return content.tobytes()


def turned_by_exif(jpeg: bytes) -> bytes:
    """Return the JPEG with a tag that asks viewers to turn it by 90 degrees."""
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def palette_png(indices: np.ndarray, palette: np.ndarray) -> bytes:
    """Return a PNG whose pixels are indices into a table of RGB colours."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    height, width = indices.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in indices.astype(np.uint8))
    chunks = [(b"IHDR", header), (b"PLTE", palette.astype(np.uint8).tobytes())]
    chunks += [(b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in chunks)
