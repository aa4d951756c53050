"""Read a pickle without running it.

A pickle is a program for a small stack machine, and two of its instructions call whatever they
are told to. Python's own reader and all readers built on it do call; this one cannot: a class or
function is its name and nothing else, and calling one makes a record of what was called. No module
is imported, no attribute is looked up, no method of anything that the file names exists here.
"""

import mmap
import pickletools
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from io import BytesIO
from typing import IO, Any, NamedTuple, cast

_MAPPINGS = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict")
_DEEPEST_KEY = 4  # tuples in tuples as a key of a dict; hashing deeper ones recurses in C


class BrokenPickle(ValueError):
    """Say that bytes are no pickle, or one that no writer of Python makes."""


@dataclass(frozen=True, slots=True)
class Named:
    """A class or function that the file names: `torch.FloatStorage`."""

    name: str


@dataclass(eq=False, slots=True)
class Record:
    """An object that was to be made by a call: of what, with what, and what was put into it."""

    name: str
    args: tuple[Any, ...]
    state: Any = None
    items: list[Any] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Reference:
    """Something outside the pickle, by what the file says of it: a storage of tensors."""

    to: Any


class Reading(NamedTuple):
    """What a pickle holds, and everything outside that it refers to."""

    value: Any
    references: list[Reference]


def read_pickle(stream: BytesIO | mmap.mmap) -> Reading:
    """Return what the next pickle of a stream holds; the stream stands behind it afterwards.

    Numbers, texts, bytes and plain containers come as themselves, ordered dicts as dicts, and
    everything else as a `Record`.

    Raises:
        BrokenPickle: It is no pickle, it ends too early, or it is made to confuse its reader.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            # An odd escape in a name is part of the file, not a mistake in a program.
            warnings.simplefilter("ignore", DeprecationWarning)
            for opcode, argument, _ in pickletools.genops(cast("IO[bytes]", stream)):
                machine.do(opcode.name, argument)
    except BrokenPickle:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise BrokenPickle(str(error)) from error
    return Reading(machine.result(), machine.references)


_MARK = object()


class _Machine:
    """The stack, the memory, and one method for each kind of instruction."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}
        self.references: list[Reference] = []

    def result(self) -> Any:
        """Return the one value that a whole program leaves."""
        if len(self.stack) != 1:
            raise BrokenPickle(f"it leaves {len(self.stack)} values instead of one")
        return self.pop()

    def do(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        if name in _VALUES:
            self.push(argument)
        elif name in _CONSTANTS:
            self.push(_CONSTANTS[name])
        elif name in _FRESH:
            self.push(_FRESH[name]())
        elif name in _STORES:
            self.memory[len(self.memory) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in _LOADS:
            self.push(self.memory[argument])
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in _NOTHING:
            raise BrokenPickle(f"the instruction {name} has no place in such a file")

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the top value."""
        value = self.stack.pop()
        if value is _MARK:
            raise BrokenPickle("a mark stands where a value should")
        return value

    def popped(self, count: int) -> list[Any]:
        """Take the top values, lowest first."""
        return [self.pop() for _ in range(count)][::-1]

    def since_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def make(self, maker: Any, args: Any) -> None:
        """Put the record of a call on the stack; ordered dicts become dicts."""
        if not isinstance(maker, Named | Record) or not isinstance(args, tuple):
            raise BrokenPickle("something is called that is no class or function")
        if maker.name in _MAPPINGS:
            pairs = args[0] if args and isinstance(args[0], list | dict) else ()
            made: dict[Any, Any] = {}
            _set_items(made, list(pairs.items() if isinstance(pairs, dict) else pairs))
            self.push(made)
        else:
            self.push(Record(maker.name, args))

    def refer(self, to: Any) -> None:
        """Put a reference to something outside on the stack."""
        self.references.append(Reference(to))
        self.push(self.references[-1])


def _set_items(target: Any, pairs: Iterable[Any]) -> None:
    for key, value in pairs:
        if isinstance(target, Record):
            target.items.append((key, value))
        elif isinstance(target, dict) and _is_key(key):
            target[key] = value
        else:
            raise BrokenPickle("an entry is put where none can be")


def _add(target: Any, values: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(values)
    elif isinstance(target, Record):
        target.items.extend(values)
    elif isinstance(target, set) and all(map(_is_key, values)):
        target.update(values)
    else:
        raise BrokenPickle("values are added to what holds none")


def _is_key(value: Any, depth: int = 0) -> bool:
    if isinstance(value, tuple):
        return depth < _DEEPEST_KEY and all(_is_key(part, depth + 1) for part in value)
    return value is None or isinstance(value, str | bytes | int | float | Named | Record)


def _build(machine: _Machine, _: Any) -> None:
    state = machine.pop()
    if isinstance(machine.stack[-1], Record):  # attributes of a dict are of no use here
        machine.stack[-1].state = state


def _frozen_set(machine: _Machine, _: Any) -> None:
    made: set[Any] = set()
    _add(made, machine.since_mark())
    machine.push(frozenset(made))


def _dict(machine: _Machine, _: Any) -> None:
    made: dict[Any, Any] = {}
    _set_items(made, _pairs(machine.since_mark()))
    machine.push(made)


def _put_items(machine: _Machine, _: Any) -> None:
    pairs = _pairs(machine.since_mark())
    _set_items(machine.stack[-1], pairs)


def _put_item(machine: _Machine, _: Any) -> None:
    pair = machine.popped(2)
    _set_items(machine.stack[-1], [pair])


def _append(machine: _Machine, _: Any) -> None:
    value = machine.pop()
    _add(machine.stack[-1], [value])


def _append_all(machine: _Machine, _: Any) -> None:
    values = machine.since_mark()
    _add(machine.stack[-1], values)


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(values[::2], values[1::2], strict=True))


def _name(machine: _Machine, text: str) -> None:
    """Name a class: the module and the name come as one text, with a space between."""
    module, _, name = text.partition(" ")
    machine.push(Named(f"{module}.{name}"))


def _stacked_name(machine: _Machine, _: Any) -> None:
    module, name = machine.popped(2)
    if not isinstance(module, str) or not isinstance(name, str):
        raise BrokenPickle("a class is named by something that is no text")
    machine.push(Named(f"{module}.{name}"))


def _made_with_keywords(machine: _Machine, _: Any) -> None:
    maker, args, keywords = machine.popped(3)
    machine.make(maker, (*args, keywords))


def _made_here(machine: _Machine, text: str) -> None:
    args = tuple(machine.since_mark())
    _name(machine, text)
    machine.make(machine.pop(), args)


def _made_from_mark(machine: _Machine, _: Any) -> None:
    maker, *args = machine.since_mark()
    machine.make(maker, tuple(args))


_NOTHING = frozenset({"PROTO", "FRAME", "STOP"})
_VALUES = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING"}
    | {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_FRESH: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_STORES = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_LOADS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.since_mark().clear(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.popped(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.popped(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.popped(3))),
    "DICT": _dict,
    "FROZENSET": _frozen_set,
    "APPEND": _append,
    "APPENDS": _append_all,
    "ADDITEMS": _append_all,
    "SETITEM": _put_item,
    "SETITEMS": _put_items,
    "GLOBAL": _name,
    "STACK_GLOBAL": _stacked_name,
    "REDUCE": lambda machine, _: machine.make(*machine.popped(2)),
    "NEWOBJ": lambda machine, _: machine.make(*machine.popped(2)),
    "NEWOBJ_EX": _made_with_keywords,
    "INST": _made_here,
    "OBJ": _made_from_mark,
    "BUILD": _build,
    "PERSID": lambda machine, text: machine.refer(text),
    "BINPERSID": lambda machine, _: machine.refer(machine.pop()),
}
