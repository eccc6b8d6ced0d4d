"""What damaged files raise, and the one error that users get instead."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError
from typing import TypeVar

__all__ = ["DAMAGED", "read_file"]

_T = TypeVar("_T")

#: What the decoders below raise for bytes that are not what the header promises.
DAMAGED = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    EOFError,
    SyntaxError,
    TokenError,
    struct.error,
)


def read_file(reader: Callable[[Path], _T], path: Path, what: str) -> _T:
    """What ``reader`` makes of a file; what a damaged one raises becomes a ``ValueError`` that names it."""
    try:
        return reader(path)
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        if isinstance(error, ValueError | KeyError) and path.name in str(error):
            raise
        raise ValueError(f"{what} {path.name} cannot be read ({error}); is it complete?") from error
