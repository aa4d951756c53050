"""A small VOCdevkit for tests."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

Object = tuple[str, tuple[float, float, float, float], int | None]
"""Name, xmin ymin xmax ymax as VOC counts them, and the flag `difficult` (None: not stated)."""


def annotation(objects: Sequence[Object], width: int = 60, height: int = 40) -> str:
    """Return the XML of an image, its corners in another order than VOC's own files have."""
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    inside = "".join(_object(each) for each in objects)
    return f"<annotation><filename>any.jpg</filename>{size}{inside}</annotation>"


def _object(each: Object) -> str:
    name, (left, top, right, bottom), difficult = each
    flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    box = (
        f"<bndbox><xmax>{right}</xmax><xmin>{left}</xmin>"
        f"<ymax>{bottom}</ymax><ymin>{top}</ymin></bndbox>"
    )
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    return f"<object><name>{name}</name><pose>Left</pose>{flag}{box}{part}</object>"


def write_set(root: Path, name: str, content: dict[str, str]) -> None:
    """Write the set FOLDER/SET: image name → XML text; every image is grey, 60 x 40 pixels."""
    folder, _, stem = name.rpartition("/")
    for below in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / folder / below).mkdir(parents=True, exist_ok=True)
    listing = root / folder / "ImageSets" / "Main" / f"{stem}.txt"
    listing.write_text("".join(f"{image}\n" for image in content))
    for image, text in content.items():
        (root / folder / "Annotations" / f"{image}.xml").write_text(text)
        path = root / folder / "JPEGImages" / f"{image}.jpg"
        cv2.imwrite(str(path), np.full((40, 60, 3), 128, np.uint8))
