import hashlib

import pytest

from ldkit.cache.document import FORMAT_VERSION, from_bytes
from ldkit.cache.format import Plan
from ldkit.cache.receipts import Manifest, Receipt
from ldkit.errors import CacheCorrupt, CacheMismatch
from ldkit.files import fingerprint
from tests.cache.synthetic import build, make_keys, make_plan

KEYS = make_keys(3)
PLAN = make_plan(KEYS)


@pytest.mark.law
def test_a_document_read_back_is_the_document_written() -> None:
    again = from_bytes(Plan, PLAN.to_bytes(), "plan.json")
    assert again == PLAN
    assert again.digest == PLAN.digest
    assert again.to_bytes() == PLAN.to_bytes()


@pytest.mark.law
@pytest.mark.parametrize("kind", [Plan, Receipt, Manifest], ids=lambda kind: kind.__name__)
def test_a_flipped_bit_anywhere_in_a_document_is_refused(kind, tmp_path) -> None:
    manifest = build(tmp_path, PLAN, KEYS)
    document = {Plan: PLAN, Receipt: manifest.receipts[0], Manifest: manifest}[kind]
    content = document.to_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(CacheCorrupt):
            from_bytes(kind, bytes(damaged), "here")


@pytest.mark.law
def test_a_truncated_or_extended_document_is_refused() -> None:
    content = PLAN.to_bytes()
    for end in range(len(content)):
        with pytest.raises(CacheCorrupt):
            from_bytes(Plan, content[:end], "here")
    with pytest.raises(CacheCorrupt):
        from_bytes(Plan, content + b"\n", "here")


@pytest.mark.contract
def test_the_message_shows_both_digests_and_what_to_do() -> None:
    content = PLAN.to_bytes().replace(b'"num_bins":5', b'"num_bins":6')
    with pytest.raises(CacheCorrupt) as caught:
        from_bytes(Plan, content, "caches/r101/plan.json")
    text = str(caught.value)
    assert text.startswith("caches/r101/plan.json: is not what was written.\n  expected sha256 ")
    assert PLAN.digest in text
    assert "Delete this file and manifest.json" in text


@pytest.mark.contract
def test_a_file_from_elsewhere_is_named_as_such() -> None:
    with pytest.raises(CacheCorrupt, match="truncated, damaged or not from a cache"):
        from_bytes(Plan, b'{"images": []}', "here")


def sealed_by_hand(text: str) -> bytes:
    """Return a document whose digest is right and whose fields are anything."""
    body = text.encode()
    return f'{{"digest":"{hashlib.sha256(body).hexdigest()}",\n'.encode() + body


@pytest.mark.contract
def test_a_later_format_version_is_not_called_damaged() -> None:
    with pytest.raises(CacheMismatch, match="format version 2; this ldkit reads version 1"):
        from_bytes(Plan, sealed_by_hand('"version":2,"bricks":7}'), "here")
    assert FORMAT_VERSION == 1


@pytest.mark.contract
def test_a_document_of_another_kind_is_refused_with_the_field() -> None:
    with pytest.raises(CacheCorrupt, match=r"fields of a cache document \(.*: "):
        from_bytes(Receipt, PLAN.to_bytes(), "here")


@pytest.mark.law
def test_a_field_added_later_leaves_older_documents_as_they_are() -> None:
    class LaterPlan(Plan):
        addition: int | None = None

    later = from_bytes(LaterPlan, PLAN.to_bytes(), "here")
    assert later.digest == PLAN.digest
    assert fingerprint(later.model_dump(mode="json", exclude_unset=True)) == fingerprint(
        PLAN.model_dump(mode="json", exclude_unset=True)
    )
