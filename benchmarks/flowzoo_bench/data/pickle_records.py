"""Notes down what a pickle would do, and does none of it."""

from __future__ import annotations

import pickletools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any


@dataclass
class Record:
    """A call that a pickle asks for, which nobody makes.

    Attributes:
        kind: what the called name stands for.
        args: of the call.
        state: what the object that the call would give was to be set to; None for nothing.
    """

    kind: str
    args: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class _Name:
    """A class or function that a pickle names."""

    kind: str


_MARK = object()
_VALUES = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8".split()
)
_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_records(stream: IO[bytes], vocabulary: Mapping[tuple[str, str], str]) -> Any:
    """The value that a pickle builds, with a ``Record`` wherever it calls something.

    Python's own reader is not used. Opcodes are told apart by ``pickletools``, which only reads,
    and their effect on numbers, texts, lists, tuples and dicts is had here; a name is never looked
    up. What Python 2 called str becomes a text of the characters 0 to 255.

    Args:
        stream: the file.
        vocabulary: the (module, name) that may be named, and what they are to be called here.

    Raises:
        ValueError: a name beyond the vocabulary, an opcode that plain data do not need, or bytes
            that are no whole pickle.
        IndexError, KeyError, TypeError: opcodes that do not fit together.

    Example:
        >>> import io
        >>> read_records(io.BytesIO(b"cos\\nmkdir\\n(I1\\ntR."), {("os", "mkdir"): "make"})
        Record(kind='make', args=(1,), state=None)
    """
    machine = _Machine(vocabulary)
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "STOP":
            return machine.pop()
        machine.do(opcode.name, argument)
    raise ValueError("no end")


class _Machine:
    """A stack and a memory, as the pickle format has them."""

    def __init__(self, vocabulary: Mapping[tuple[str, str], str]) -> None:
        self.vocabulary = vocabulary
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def do(self, opcode: str, argument: Any) -> None:
        """The effect of an opcode."""
        if opcode in ("PROTO", "FRAME"):
            return
        if opcode in _VALUES:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memory[argument] = self.stack[-1]
        elif opcode == "MEMOIZE":
            self.memory[len(self.memory)] = self.stack[-1]
        elif opcode in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memory[argument])
        elif opcode == "MARK":
            self.stack.append(_MARK)
        elif opcode == "POP":
            self.pop()
        else:
            self._build(opcode, argument)

    def pop(self) -> Any:
        """The uppermost value."""
        return self.stack.pop()

    def _build(self, opcode: str, argument: Any) -> None:
        """Containers, names and calls."""
        if opcode == "EMPTY_TUPLE":
            self.stack.append(())
        elif opcode == "TUPLE":
            self.stack.append(tuple(self._marked()))
        elif opcode in _SHORT_TUPLES:
            size = _SHORT_TUPLES[opcode]
            self.stack.append(tuple(reversed([self.pop() for _ in range(size)])))
        elif opcode in ("EMPTY_LIST", "LIST"):
            self.stack.append(self._marked() if opcode == "LIST" else [])
        elif opcode in ("APPEND", "APPENDS"):
            items = [self.pop()] if opcode == "APPEND" else self._marked()
            _kind(self.stack[-1], list).extend(items)
        elif opcode in ("EMPTY_DICT", "DICT"):
            self.stack.append(_paired(self._marked()) if opcode == "DICT" else {})
        elif opcode in ("SETITEM", "SETITEMS"):
            items = [self.pop(), self.pop()][::-1] if opcode == "SETITEM" else self._marked()
            _kind(self.stack[-1], dict).update(_paired(items))
        elif opcode == "GLOBAL":
            module, _, name = argument.partition(" ")
            self.stack.append(self._named(module, name))
        elif opcode == "STACK_GLOBAL":
            name, module = self.pop(), self.pop()
            self.stack.append(self._named(module, name))
        elif opcode in ("REDUCE", "NEWOBJ"):
            args = _kind(self.pop(), tuple)
            self.stack.append(Record(_kind(self.pop(), _Name).kind, args))
        elif opcode == "BUILD":
            state = self.pop()
            _kind(self.stack[-1], Record).state = state
        else:
            raise ValueError(f"the opcode {opcode}, which no plain data need")

    def _named(self, module: Any, name: Any) -> _Name:
        # texts, and nothing else: to hash or to print what is nested may take forever
        if (_kind(module, str), _kind(name, str)) not in self.vocabulary:
            raise ValueError(f"the name {module[:99]}.{name[:99]}, which is not expected")
        return _Name(self.vocabulary[module, name])

    def _marked(self) -> list[Any]:
        """What lies above the uppermost mark, taken away with it."""
        items = []
        while (value := self.pop()) is not _MARK:
            items.append(value)
        return items[::-1]


def _paired(items: list[Any]) -> dict[str, Any]:
    keys = [_kind(key, str) for key in items[::2]]
    return dict(zip(keys, items[1::2], strict=True))


def _kind(value: Any, kind: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} where {kind.__name__} should be")
    return value
