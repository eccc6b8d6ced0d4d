"""What damaged files raise, and the one error that users get instead."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError

__all__ = ["DAMAGED", "readable"]

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


@contextmanager
def readable(what: str, path: Path) -> Iterator[None]:
    """Turn what a damaged file raises into a ``ValueError`` that names it; an error that names it already stays."""
    try:
        yield
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        if isinstance(error, ValueError | KeyError) and path.name in str(error):
            raise
        raise ValueError(f"{what} {path.name} cannot be read ({error}); is it complete?") from error
