"""Text on a picture: one font, printable characters, shortened to fit."""

from __future__ import annotations

import bisect
import functools
import unicodedata
from typing import Any, Literal

from PIL import Image, ImageDraw, ImageFont

INK = (34, 34, 34)
MUTED = (95, 95, 95)

_ELLIPSIS = "…"
# The built-in font has ASCII and the ellipsis only. What has no plain form under Unicode's own rules:
_PLAIN = {
    **dict.fromkeys("\u2013\u2014\u2212", "-"),  # dashes and the minus sign
    **dict.fromkeys("\u2018\u2019", "'"),
    **dict.fromkeys("\u201c\u201d", '"'),
    **{"\xd7": "x", "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l"},
}


@functools.cache
def font(size: int) -> Any:
    """Pillow's built-in sans-serif font, the same on every machine.

    Args:
        size: height in pixels.

    Returns:
        A Pillow font.

    Raises:
        ImportError: a Pillow built without FreeType.

    Example:
        >>> font(14).size
        14
    """
    return ImageFont.load_default(size=size)


def printable(text: str) -> str:
    """Text that the built-in font can show, on one line: accents dropped, unknown characters as "?".

    Args:
        text: any string.

    Returns:
        ASCII, and possibly ellipses.

    Example:
        >>> printable("crème  brûlée")
        'creme brulee'
    """
    return " ".join("".join(_plain(char) for char in text).split())


def shorten(text: str, size: int, width: float) -> str:
    """The longest beginning of a text that fits, with an ellipsis where something is missing.

    Args:
        text: printable text.
        size: font size in pixels.
        width: room in pixels.

    Returns:
        The text, or a beginning of it and "…"; empty where not even the ellipsis fits.

    Example:
        >>> shorten("tabby cat", 14, 1000)
        'tabby cat'
    """
    if font(size).getlength(text) <= width:
        return text

    def is_too_wide(end: int) -> bool:
        return font(size).getlength(_cut(text, end)) > width

    end = bisect.bisect_left(range(len(text)), True, key=is_too_wide) - 1
    return _cut(text, end) if end >= 0 else ""


def write(
    picture: Image.Image,
    at: tuple[float, float],
    text: str,
    *,
    size: int,
    anchor: Literal["ls", "ms", "rs", "lm", "mm", "rm"],
    color: tuple[int, int, int] = INK,
) -> None:
    """Write one line of text onto a picture, in place.

    Args:
        picture: RGB.
        at: ``(x, y)`` of the anchor in pixels; rounded, as glyphs are crispest on whole pixels.
        text: printable text.
        size: font size in pixels.
        anchor: Pillow's two letters: left, middle or right; baseline (s) or middle (m).
        color: RGB.

    Example:
        >>> write(Image.new("RGB", (80, 20)), (2, 15), "cat", size=14, anchor="ls")
    """
    place = (round(at[0]), round(at[1]))
    ImageDraw.Draw(picture).text(place, text, fill=color, font=font(size), anchor=anchor)


def _cut(text: str, end: int) -> str:
    return text[:end].rstrip(" ,;-") + _ELLIPSIS


def _plain(char: str) -> str:
    """One character as the font can show it."""
    if " " <= char <= "~" or char == _ELLIPSIS:
        return char
    if char.isspace() or unicodedata.combining(char):
        return " " if char.isspace() else ""
    parts = _PLAIN.get(char) or unicodedata.normalize("NFKD", char)
    return "".join(part for part in parts if " " <= part <= "~") or "?"
