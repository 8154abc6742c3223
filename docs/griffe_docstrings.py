"""For mkdocs: how this package's docstrings are shown.

The comment after a field, such as `mask: Array  # [h, w], low = important`, documents it. "Example:" holds
doctests. "Returns:" and "References:" hold prose.
"""

import re
from textwrap import dedent
from typing import Any

import griffe

PROSE = re.compile(r"^(Returns|Yields|References):\n((?: +.*\n|\n)+)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Reads comments of fields, and says which sections of a docstring are examples and which are prose."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the sections that the parser would take for something else."""
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
