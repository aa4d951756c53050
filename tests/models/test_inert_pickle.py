"""A pickle is read as data: all values come through, and nothing is ever called."""

import pickle
import sys
from collections import OrderedDict, defaultdict
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldkit.models.inert_pickle import BrokenPickle, Named, Record, read_pickle
from tests.models.evil import Calls, assembled, bombs, opcodes, runs_in_python, watched

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**80), max_value=2**80)
    | st.floats(allow_nan=False)
    | st.text()
)
keys = scalars | st.tuples(st.integers(), st.text())
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(keys, inner, max_size=5)
    ),
    max_leaves=20,
)


def read(content: bytes) -> Any:
    return read_pickle(BytesIO(content)).value


@pytest.mark.law
@settings(deadline=None, max_examples=60)
@given(value=plain, protocol=st.sampled_from(PROTOCOLS))
def test_plain_values_come_through_in_every_protocol(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


@pytest.mark.law
@settings(deadline=None, max_examples=30)
@given(
    value=st.sets(st.integers()) | st.frozensets(st.text()) | st.binary() | st.binary(min_size=300)
)
def test_sets_and_bytes_come_through_in_newer_protocols(value: Any) -> None:
    assert read(pickle.dumps(value, 4)) == value
    assert read(pickle.dumps(value, 5)) == value


@pytest.mark.contract
def test_equal_objects_stay_one_object_and_cycles_are_kept() -> None:
    shared: list[Any] = [1]
    shared.append(shared)
    first, second = read(pickle.dumps([shared, shared]))
    assert first is second
    assert first[1] is first


@pytest.mark.contract
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ordered_dicts_are_dicts_in_their_order(protocol: int) -> None:
    written = OrderedDict(zip("cab", range(3), strict=True))
    written._metadata = {"version": 1}  # type: ignore[attr-defined]  # as state dicts have it
    found = read(pickle.dumps({"state_dict": written, "more": defaultdict(list, a=[1])}, protocol))
    assert type(found["state_dict"]) is dict
    assert list(found["state_dict"].items()) == [("c", 0), ("a", 1), ("b", 2)]
    assert found["more"] == {"a": [1]}


class Unknown:
    def __init__(self) -> None:
        self.window = 3


class Items(list[int]):
    pass


@pytest.mark.contract
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_objects_of_classes_are_records(protocol: int) -> None:
    record = read(pickle.dumps(Unknown(), protocol))
    assert isinstance(record, Record)
    assert record.state == {"window": 3}
    items = Items([1, 2])
    items.note = "more"  # type: ignore[attr-defined]
    record = read(pickle.dumps(items, protocol))
    assert isinstance(record, Record)
    assert record.state == {"note": "more"}
    if protocol >= 2:
        assert record.name == f"{__name__}.Items"
        assert record.items == [1, 2]


@pytest.mark.contract
def test_what_training_leaves_in_files_is_records() -> None:
    written = {"dtype": torch.float32, "size": torch.Size([2]), "history": np.arange(3), "n": 1.0}
    found = read(pickle.dumps({**written, "scalar": np.float64(2)}, 2))
    assert found["dtype"] == Named("torch.float32")
    assert found["size"].name == "torch.Size"
    assert found["history"].name.endswith("_reconstruct")
    assert found["scalar"].name.endswith("scalar")
    assert found["n"] == 1.0


@pytest.mark.contract
def test_a_class_is_its_name_and_its_module_is_not_imported() -> None:
    assert "antigravity" not in sys.modules
    found = read(b"\x80\x04\x8c\x0bantigravity\x8c\x03fly\x93.")
    assert found == Named("antigravity.fly")
    assert read(b"cantigravity\nfly\n)R.").name == "antigravity.fly"
    assert "antigravity" not in sys.modules


@pytest.mark.contract
@pytest.mark.parametrize("name", list(bombs(Path("x"))))
def test_nothing_runs_whatever_the_pickle_says(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for protocol in PROTOCOLS:
        content = pickle.dumps(bombs(marker)[name], protocol)
        with watched() as events:
            read(content)
        assert events == []
    assert not marker.exists()


@pytest.mark.contract
@pytest.mark.parametrize("name", list(assembled(Path("x"))))
def test_nothing_runs_by_the_older_instructions(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    content = assembled(marker)[name]
    with watched() as events:
        try:
            read(content)
        except BrokenPickle:
            assert name == "the result is called" or "BUILD" in name
    assert events == []
    assert not marker.exists()


@pytest.mark.contract
def test_the_watch_sees_what_python_would_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    with watched() as events:
        runs_in_python(pickle.dumps(bombs(marker)["os.system"]))
    assert marker.exists()
    assert "os.system" in events


@pytest.mark.contract
def test_the_pickles_of_these_tests_use_every_instruction_that_calls(tmp_path: Path) -> None:
    used = {name for content in assembled(tmp_path).values() for name in opcodes(content)}
    for protocol in PROTOCOLS:
        used |= opcodes(pickle.dumps([Unknown(), Items([1]), Calls(eval, "1")], protocol))
    assert used >= {"REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "GLOBAL", "STACK_GLOBAL"}


@pytest.mark.law
@settings(deadline=None, max_examples=40)
@given(value=plain, protocol=st.sampled_from(PROTOCOLS), share=st.floats(0, 1, exclude_max=True))
def test_a_pickle_that_ends_too_early_is_broken(value: Any, protocol: int, share: float) -> None:
    content = pickle.dumps({"a": value}, protocol)
    with pytest.raises(BrokenPickle):
        read(content[: int(share * len(content))])


@pytest.mark.law
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_damaged_bytes_are_told_or_read_as_something_else(data: st.DataObject) -> None:
    content = bytearray(pickle.dumps({"a": [Unknown(), (1, 2.5)], "b": "text"}, 2))
    for _ in range(3):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with watched() as events, suppress(BrokenPickle):
        read(bytes(content))
    assert events == []


@pytest.mark.law
@settings(deadline=None, max_examples=100)
@given(content=st.binary(max_size=60))
def test_any_other_bytes_are_told(content: bytes) -> None:
    with suppress(BrokenPickle):
        read(content + b".")


@pytest.mark.contract
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"Nr\xff\xff\xff\x7f.", None),
        (b")" + b"\x85" * 20_000 + b"0N.", None),
        (b"}" + b")" + b"\x85" * 20_000 + b"Ns.", "an entry is put where none can be"),
        (b"]]a", "pickle exhausted"),
        (b"NN.", "it leaves 2 values instead of one"),
        (b"(.", "a mark stands where a value should"),
        (b"N\x82\x01.", "the instruction EXT1 has no place"),
        (b"h\x05.", "5"),
        (b"K\x01)R.", "something is called that is no class or function"),
        (b"}(K\x01u.", "zip()"),
        (b"K\x01K\x02a.", "values are added to what holds none"),
        (b"\x8f(]\x90.", "values are added to what holds none"),
        (b"K\x01K\x02\x93.", "a class is named by something that is no text"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.", "expected 9223372036854775807 bytes"),
    ],
)
def test_pickles_made_to_confuse_neither_crash_nor_fill_memory(
    content: bytes, reason: str | None
) -> None:
    if reason is None:
        assert read(content) is None
        return
    with pytest.raises(BrokenPickle) as caught:
        read(content)
    assert reason in str(caught.value)


@pytest.mark.contract
def test_a_stream_stands_behind_the_pickle_and_tells_what_it_refers_to() -> None:
    class Outside(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", 7) if isinstance(value, Unknown) else None

    stream = BytesIO()
    Outside(stream, 2).dump([Unknown(), 5])
    stream.write(b"rest")
    stream.seek(0)
    reading = read_pickle(stream)
    assert stream.read() == b"rest"
    assert reading.value[1] == 5
    assert reading.value[0] is reading.references[0]
    assert reading.references[0].to == ("storage", 7)


@pytest.mark.contract
def test_an_odd_escape_in_a_name_warns_nobody() -> None:
    assert isinstance(read_pickle(BytesIO(b"c\\e\nname\n.")).value, Named)
