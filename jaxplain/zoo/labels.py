"""Class names: the thousand of ImageNet, and finding a class by the name or index that a person gives."""

from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cache
from importlib import resources
from statistics import fmean

_SUGGESTIONS = 4
_LIKENESS = 0.6  # of names worth suggesting, where 1 is the same name


@cache
def imagenet_labels() -> tuple[str, ...]:
    """Names of the 1000 ImageNet classes, in the usual order; all differ, two only in a capital letter."""
    text = resources.files("jaxplain.zoo").joinpath("imagenet_labels.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def find_class(name_or_index: str | int, labels: Sequence[str]) -> int:
    """Index of a class.

    Args:
      name_or_index: an index, also as a string of digits; or a whole name, with spaces or underscores.
        Upper and lower case are the same where that leaves one class.
      labels: the class names.

    Raises:
      ValueError: no such class (says which come nearest), an index out of range, or a name of several.

    Example:
      >>> find_class("Indigo_Bunting", imagenet_labels())
      14
    """
    text = str(name_or_index).strip()
    if text.removeprefix("-").isdecimal():
        return _checked_index(int(text), len(labels))
    named = [i for i, label in enumerate(labels) if _words(label) == _words(text)]
    if not named:
        named = [i for i, label in enumerate(labels) if _folded(label) == _folded(text)]
    if len(named) == 1:
        return named[0]
    if named:
        raise ValueError(f"several classes are named {text!r}: {_listed(named, labels)}; give the index.")
    near = _nearest(text, labels)
    hint = (
        f"did you mean {_listed(near, labels)}?" if near else f"give a name or an index below {len(labels)}."
    )
    raise ValueError(f"unknown class {text!r}: {hint}")


def _checked_index(index: int, classes: int) -> int:
    if not 0 <= index < classes:
        raise ValueError(
            f"class {index} is out of range: there are classes 0..{classes - 1}; choose one of them."
        )
    return index


def _words(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def _folded(name: str) -> str:
    return _words(name).casefold()


def _listed(indices: Sequence[int], labels: Sequence[str]) -> str:
    return ", ".join(f"{labels[i]!r} ({i})" for i in indices)


def _nearest(text: str, labels: Sequence[str]) -> list[int]:
    """The likeliest classes, best first."""
    words = _folded(text).split()
    likeness = Counter({i: _likeness(words, _folded(label).split()) for i, label in enumerate(labels)})
    return [i for i, share in likeness.most_common(_SUGGESTIONS) if share >= _LIKENESS]


def _likeness(words: Sequence[str], others: Sequence[str]) -> float:
    """0 to 1: how well each word of either name is met by one of the other, so that "cat" is like "tiger cat"
    and "taby cat" like "tabby"."""
    if not words or not others:
        return 0.0
    ratios = [[SequenceMatcher(None, word, other).ratio() for other in others] for word in words]
    met = fmean(max(row) for row in ratios), fmean(max(column) for column in zip(*ratios, strict=True))
    return fmean(met)
