from pathlib import Path

import pytest

from ldkit.data.voc_xml import BadXml, VocAnnotation, VocObject, read_annotation
from tests.data.voc_files import annotation

GOOD = annotation([("cat", (11, 6, 30, 25), 1)])


def read(tmp_path: Path, content: str | bytes) -> tuple[VocAnnotation, list[str]]:
    path = tmp_path / "000005.xml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_annotation(path)


@pytest.mark.contract
def test_a_file_is_read_by_names_in_any_order_and_parts_are_not_objects(tmp_path: Path) -> None:
    found, complaints = read(tmp_path, GOOD)
    assert found == VocAnnotation((40, 60), (VocObject("cat", True, (11, 6, 30, 25)),))
    assert complaints == []
    spaced = GOOD.replace("<name>cat", "<!-- a --><name>\n cat ").replace(">11<", "> 11.9 <")
    assert read(tmp_path, spaced) == (found, [])


@pytest.mark.contract
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<width>60</width>", "", ["the image has no size/width."]),
        ("<width>60</width>", "<width/>", ["the image has no size/width."]),
        ("<name>cat</name>", "", ["object 1 has no name."]),
        ("<xmin>11</xmin>", "", ["object 1 (cat) has no bndbox/xmin."]),
        (">11<", ">left<", ["bndbox/xmin of object 1 (cat) is 'left', not a number of pixels."]),
        (">11<", ">nan<", ["bndbox/xmin of object 1 (cat) is 'nan', not a number of pixels."]),
        (">11<", ">1e99<", ["bndbox/xmin of object 1 (cat) is '1e99', not a number of pixels."]),
        (">60<", ">0<", ["the size of the image is 0 x 40 (width x height)."]),
        (
            "<difficult>1<",
            "<difficult>maybe<",
            ["difficult of object 1 (cat) is 'maybe', not 0 or 1."],
        ),
        (
            "<bndbox>",
            "<box>",
            [f"object 1 (cat) has no bndbox/{c}." for c in ("xmin", "ymin", "xmax", "ymax")],
        ),
    ],
)
def test_a_field_that_is_missing_or_no_good_is_named(
    tmp_path: Path, old: str, new: str, said: list[str]
) -> None:
    text = GOOD.replace("<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>", "")
    changed = text.replace(old, new)
    if new == "<box>":
        changed = changed.replace("</bndbox>", "</box>")
    assert read(tmp_path, changed)[1] == said


@pytest.mark.contract
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", r"is not valid XML \(no element found: line 1, column 0\)"),
        (GOOD[:50], r"is not valid XML \(unclosed token"),
        (GOOD + "<x/>", r"is not valid XML \(junk after document element"),
        (b"\xff\xd8\xff\xe0", r"is not valid XML"),
        ("<html/>", r"holds <html> where <annotation> is expected"),
        (GOOD.replace("cat", "&c;"), r"is not valid XML \(undefined entity"),
    ],
)
def test_a_file_that_is_no_annotation_says_what_it_is(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    with pytest.raises(BadXml, match=said):
        read(tmp_path, content)


@pytest.mark.contract
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "declared",
    [
        '<!DOCTYPE annotation [<!ENTITY a "cat"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE annotation [<!ENTITY b SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE annotation SYSTEM "http://127.0.0.1:9/voc.dtd">',
    ],
)
def test_a_document_type_is_refused_before_it_can_declare_anything(
    tmp_path: Path, declared: str, encoding: str
) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?>{declared}{GOOD.replace("cat", "&b;")}'
    with pytest.raises(BadXml, match="declares a document type"):
        read(tmp_path, text.encode(encoding))


@pytest.mark.contract
def test_deep_nesting_is_read_without_harm(tmp_path: Path) -> None:
    depth = 50_000
    nested = "<a>" * depth + "</a>" * depth
    found, complaints = read(tmp_path, GOOD.replace("<annotation>", f"<annotation>{nested}"))
    assert (len(found.objects), complaints) == (1, [])
