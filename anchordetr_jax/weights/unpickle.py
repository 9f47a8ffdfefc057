"""A reader of pickles that cannot run code.

Python's own unpickler imports and calls everything that a file names, so a downloaded file can run a program. Here a
name in a file is looked up in a table of our own constructors, and every other name is refused. Attributes of objects
are never read or set, and the memory that a small file can use is limited. The standard library's `pickletools` splits
the file into opcodes. This module executes the few opcodes that data needs.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from anchordetr_jax.weights.pickle_objects import (
    PLAIN_NAMES,
    Constructor,
    MalformedPickleError,
    RefusedNameError,
    checked,
    dict_key,
    set_state,
)

# A training checkpoint of a detector takes about 200,000. Without a limit, a file of many `[` could fill the memory.
_MAX_OPCODES = 2_000_000


def unpickle(
    file: BinaryIO,
    names: Mapping[str, Any],
    persistent_load: Callable[[Any], Any] | None = None,
    budget: int = 1 << 20,
) -> Any:
    """Reads one pickle from the current position of `file`. Afterwards `file` is at the end of the pickle.

    Args:
        file: a seekable binary file.
        names: the value of each known "module.name" that is not in `PLAIN_NAMES`. It is a `Constructor` if it is
            called.
        persistent_load: turns persistent ids (PyTorch's references to storages) into values. Without it they are
            refused.
        budget: the total number of items (of lists, bytes, characters) that constructors may get. A file that uses
            nothing twice needs at most its own length.

    Raises:
        RefusedNameError: the pickle uses a name that is in neither table.
        MalformedPickleError, or one of `ValueError`, `TypeError`, `LookupError`, `ArithmeticError`, `AttributeError`,
            `MemoryError`: the bytes are not a pickle of plain data.
    """
    return _Machine(names, persistent_load, budget).run(file)


class _Machine:
    def __init__(self, names: Mapping[str, Any], persistent_load: Callable[[Any], Any] | None, budget: int) -> None:
        self.names = names
        self.persistent_load = persistent_load
        self.budget = budget
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: BinaryIO) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > _MAX_OPCODES:
                raise MalformedPickleError(f"more than {_MAX_OPCODES} pickle instructions")
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise MalformedPickleError("a pickle without an end")

    def step(self, opcode: str, argument: Any) -> None:
        stack, memo = self.stack, self.memo
        match opcode:
            case _ if opcode in _LITERALS:
                stack.append(argument)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case _ if opcode in _CONSTANTS:
                stack.append(_CONSTANTS[opcode]())
            case "MARK":
                self.marks.append(stack)
                self.stack = []
            case "TUPLE":
                self.replace_marked(tuple(stack))
            case "LIST":
                self.replace_marked(stack)
            case "DICT":
                self.replace_marked(_set_items({}, stack))
            case "POP_MARK":
                self.stack = self.marks.pop()
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode[-1])
                items = tuple(stack.pop() for _ in range(size))
                stack.append(items[::-1])
            case "FROZENSET":
                self.replace_marked(frozenset(map(dict_key, stack)))
            case "POP":
                stack.pop()
            case "DUP":
                stack.append(stack[-1])
            case "APPEND":
                value = stack.pop()
                checked(list, stack[-1]).append(value)
            case "APPENDS":
                checked(list, self.below_mark()).extend(stack)
            case "ADDITEMS":
                checked(set, self.below_mark()).update(map(dict_key, stack))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            case "SETITEMS":
                _set_items(self.below_mark(), stack)
            case "GLOBAL" | "INST":
                stack.append(self.look_up(*argument.split(" ", 1)))
                if opcode == "INST":  # Looked up first, so that the error names it. Data does not need this opcode.
                    raise MalformedPickleError("an instance of Python 2's old-style classes")
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(self.look_up(checked(str, module), checked(str, name)))
            case "REDUCE" | "NEWOBJ":
                arguments, constructor = checked(tuple, stack.pop()), checked(Constructor, stack.pop())
                self.spend(arguments)
                stack.append(constructor.construct(*arguments))
            case "BUILD":
                state = stack.pop()
                self.spend(state)
                set_state(stack[-1], state)
            case "BINPERSID" if self.persistent_load is not None:
                stack.append(self.persistent_load(stack.pop()))
            case "PROTO" | "FRAME":
                pass
            case _:
                raise MalformedPickleError(f"the pickle instruction {opcode}, which data does not need")

    def replace_marked(self, value: Any) -> None:
        self.stack = self.marks.pop()
        self.stack.append(value)

    def below_mark(self) -> Any:
        self.stack = self.marks.pop()
        return self.stack[-1]

    def look_up(self, module: str, name: str) -> Any:
        for old, new in _RENAMED.items():
            if module == old or module.startswith(old + "."):
                module = new + module[len(old) :]
                break
        full = f"{module}.{name}"
        if full in self.names:
            return self.names[full]
        if full in PLAIN_NAMES:
            return PLAIN_NAMES[full]
        raise RefusedNameError(full)

    def spend(self, values: Any) -> None:
        # Without this, a few bytes that copy the same long string again and again could fill the memory.
        sized = str | bytes | bytearray | list | tuple | dict | set | frozenset
        if isinstance(values, tuple):
            self.budget -= sum(len(value) for value in values if isinstance(value, sized))
        if isinstance(values, sized):
            self.budget -= len(values)
        if self.budget < 0:
            raise MalformedPickleError("the same data is used over and over")


_LITERALS = frozenset(
    {
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    }
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
# Names of Python 2, and names that moved between versions of their package.
_RENAMED = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy.core": "numpy._core",
    "pathlib._local": "pathlib",
    "torch.cuda": "torch",
}


def _set_items(target: Any, items: list[Any]) -> dict[Any, Any]:
    for key, value in zip(items[::2], items[1::2], strict=True):
        checked(dict, target)[dict_key(key)] = value
    return target
