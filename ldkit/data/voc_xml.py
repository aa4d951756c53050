"""One annotation file of Pascal VOC: sizes, names and boxes, or what is wrong with it.

A document type is refused before anything in it is read, so that no entity can be declared: there
is nothing to expand and nothing to fetch.
"""

from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers.expat import ExpatError, ParserCreate

from ldkit.structures import Size

CORNERS = ("xmin", "ymin", "xmax", "ymax")
FLAGS = {"0": False, "1": True}
LARGEST_PX = 1e6


class VocObject(NamedTuple):
    """One object. `box` is as written: whole pixels, counted from 1."""

    name: str
    is_difficult: bool
    box: tuple[int, int, int, int]


class VocAnnotation(NamedTuple):
    """The content of one file. `hw` is the size of the image in pixels."""

    hw: Size
    objects: tuple[VocObject, ...]


class BadXml(ValueError):
    """Say why a file is no annotation at all."""


def read_annotation(path: Path) -> tuple[VocAnnotation, list[str]]:
    """Return the content of a file, and a sentence for each field that is missing or no good.

    Objects are counted from 1. `difficult` may be missing and then is 0.

    Raises:
        OSError: The file cannot be read.
        BadXml: It is not XML, it declares a document type, or it annotates no image.
    """
    root = _tree(path.read_bytes())
    if root.tag != "annotation":
        raise BadXml(f"holds <{root.tag:.40}> where <annotation> is expected")
    complaints: list[str] = []
    width = _pixels(root, "size/width", "the image", complaints)
    height = _pixels(root, "size/height", "the image", complaints)
    if not complaints and min(width, height) < 1:
        complaints.append(f"the size of the image is {width} x {height} (width x height).")
    objects = tuple(
        _object(element, f"object {number}", complaints)
        for number, element in enumerate(root.findall("object"), 1)
    )
    return VocAnnotation((height, width), objects), complaints


def _object(element: Element, place: str, complaints: list[str]) -> VocObject:
    name = _text(element, "name", place, complaints)
    named = f"{place} ({name:.40})" if name else place
    left, top, right, bottom = (
        _pixels(element, f"bndbox/{corner}", named, complaints) for corner in CORNERS
    )
    flag = (element.findtext("difficult") or "0").strip()
    if flag not in FLAGS:
        complaints.append(f"difficult of {named} is {flag!r:.40}, not 0 or 1.")
    return VocObject(name, FLAGS.get(flag, False), (left, top, right, bottom))


def _text(element: Element, path: str, place: str, complaints: list[str]) -> str:
    text = (element.findtext(path) or "").strip()
    if not text:
        complaints.append(f"{place} has no {path}.")
    return text


def _pixels(element: Element, path: str, place: str, complaints: list[str]) -> int:
    """Return a number cut to a whole one, as published; 0 where it is missing or none."""
    text = _text(element, path, place, complaints)
    if not text:
        return 0
    try:
        number = float(text)
    except ValueError:
        number = LARGEST_PX
    if not abs(number) < LARGEST_PX:  # nan is not below it either
        complaints.append(f"{path} of {place} is {text!r:.40}, not a number of pixels.")
        return 0
    return int(number)


def _tree(content: bytes) -> Element:
    builder = TreeBuilder()
    parser = ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse_document_type
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
    except ExpatError as error:
        raise BadXml(f"is not valid XML ({error})") from error
    return builder.close()


def _refuse_document_type(*_: object) -> None:
    raise BadXml("declares a document type (<!DOCTYPE ...>), which no annotation needs")
