"""An mkdocs extension that adapts this package's docstrings to the reference.

The comment after a field, such as `mask: Array  # [h, w], low = important`, documents it. "Example:" holds
doctests. "Returns:" and "References:" hold prose.
"""

import re
from textwrap import dedent
from typing import Any

import griffe

PROSE = re.compile(r"^(Returns|Yields|References):\n((?: +.*\n|\n)+)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Turns comments of fields into docstrings, and marks sections of docstrings as examples or prose."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the sections that the parser would misread."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value + "\n", flags=re.MULTILINE)
            obj.docstring.value = PROSE.sub(_as_prose, text).rstrip()

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Read the comment that follows the attribute on its last line."""
        if attr.docstring is not None or attr.endlineno is None or not attr.parent.is_class:
            return
        line = attr.lines_collection[attr.filepath][attr.endlineno - 1]
        _, found, comment = line.partition("  # ")
        if found and not comment.startswith(("type:", "noqa")):
            attr.docstring = griffe.Docstring(comment.strip(), lineno=attr.endlineno, parent=attr)


def _as_prose(section: re.Match[str]) -> str:
    return f"**{section[1]}:** {dedent(section[2]).strip()}\n\n"
