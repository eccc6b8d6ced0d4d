"""Let the Returns section of a numpy docstring be prose.

The types stand in the signature already, so most functions say in a sentence or a list what comes back. Napoleon would
read every line of it as a type of its own; here such a section is passed on as it is. A section in the usual form, a
type with an indented description below, is left to napoleon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sphinx.ext.napoleon import NumpyDocstring

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_parse_typed = NumpyDocstring._parse_returns_section


def _parse_returns(self: NumpyDocstring, section: str) -> list[str]:
    lines = self._dedent(self._consume_to_next_section())
    prose = not (len(lines) > 1 and lines[1].startswith("    ")) or lines[0].startswith("- ")
    if prose:
        return [*self._format_block(":returns: ", self._strip_empty(lines)), ""]
    self._lines.extendleft(reversed(lines))
    return _parse_typed(self, section)


def setup(app: Sphinx) -> dict[str, bool]:
    """Replace napoleon's parser of Returns sections."""
    NumpyDocstring._parse_returns_section = _parse_returns
    return {"parallel_read_safe": True, "parallel_write_safe": True}
