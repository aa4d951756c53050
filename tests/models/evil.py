"""Pickles that would run something, and a watch over everything that is run."""

import os
import pickle
import pickletools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_DANGEROUS = ("import", "exec", "compile", "os.", "subprocess.", "pickle.find_class", "ctypes.")
_MARK = "LDKIT_TEST_RAN"
_watching: list[list[str]] = []


def _hook(event: str, _: tuple[Any, ...]) -> None:
    if _watching and event.startswith(_DANGEROUS):
        _watching[-1].append(event)


sys.addaudithook(_hook)  # cannot be taken away again; it does nothing outside `watched`


@contextmanager
def watched() -> Iterator[list[str]]:
    """Yield the list of dangerous events that Python itself reports meanwhile."""
    _watching.append([])
    try:
        yield _watching[-1]
    finally:
        _watching.pop()


class Calls:
    """An object whose pickle calls something when it is read by Python."""

    def __init__(self, function: Callable[..., Any], *args: Any, state: Any = None) -> None:
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


def bombs(marker: Path) -> dict[str, Any]:
    """Return objects that write `marker` when Python reads their pickles."""
    code = f"open({str(marker)!r}, 'w').close()"
    system = Calls(os.system, f"touch {marker}")
    return {
        "os.system": system,
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "in a list in a dict": {"state_dict": {"a": [1, (system,)]}},
        "as a key": {system: 1},
        "as an argument": Calls(dict, [("a", Calls(eval, code))]),
        "as a state": Calls(dict, state={"b": Calls(eval, code)}),
        "getattr of a module": Calls(getattr, Calls(__import__, "os"), "getcwd"),
    }


def assembled(marker: Path) -> dict[str, bytes]:
    """Return pickles that no Python object gives, by the older instructions that also call."""
    text = f"touch {marker}".encode()
    return {
        "INST": b"(S'" + text + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + text + b"'\no.",
        "GLOBAL by another name": b"cposix\nsystem\n(S'" + text + b"'\ntR.",
        "NEWOBJ": b"\x80\x02cos\nsystem\nS'" + text + b"'\n\x85\x81.",
        "the result is called": b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n(S'os'\ntRS"
        b"'system'\ntR(S'" + text + b"'\ntR.",
        "BUILD on a class": b"\x80\x02ccopy\nError\n}S'__setstate__'\ncos\nsystem\nsb.",
        "PERSID": b"cos\nsystem\n(S'" + text + b"'\ntRQ.",
    }


def opcodes(content: bytes) -> set[str]:
    return {opcode.name for opcode, _, _ in pickletools.genops(content)}


def runs_in_python(content: bytes) -> None:
    """Read a pickle as Python does: whatever it calls is called."""
    pickle.loads(content)
