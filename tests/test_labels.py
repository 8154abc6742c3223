"""Class names and how a person may call a class."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxplain.zoo.labels import find_class, imagenet_labels

LABELS = imagenet_labels()


def test_imagenet_has_a_thousand_different_names():
    assert len(LABELS) == len(set(LABELS)) == 1000
    assert all(name == name.strip() and name for name in LABELS)
    assert (LABELS[0], LABELS[281], LABELS[999]) == ("tench", "tabby", "toilet tissue")
    assert imagenet_labels() is LABELS


def test_every_name_and_index_is_found():
    for index, name in enumerate(LABELS):
        assert find_class(name, LABELS) == find_class(name.replace(" ", "_"), LABELS) == index
        assert find_class(index, LABELS) == find_class(str(index), LABELS) == index


@pytest.mark.parametrize("name", ["tabby", "TABBY", " Tabby ", "281", 281, np.int64(281)])
def test_spellings(name):
    assert find_class(name, LABELS) == 281


def test_capitals_decide_only_where_they_must():
    assert find_class("Cardigan", LABELS) == 264
    assert find_class("cardigan", LABELS) == 474
    with pytest.raises(ValueError, match=r"several classes .*'Cardigan' \(264\), 'cardigan' \(474\)"):
        find_class("CARDIGAN", LABELS)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("taby cat", "'tabby' (281)"),
        ("cat", "'tiger cat' (282)"),
        ("golden retreiver", "'golden retriever' (207)"),
        ("labrador", "'Labrador retriever' (208)"),
        ("sharks", "'tiger shark' (3)"),
    ],
)
def test_suggestions(wrong, meant):
    with pytest.raises(ValueError, match="unknown class") as error:
        find_class(wrong, LABELS)
    assert f"unknown class {wrong!r}: did you mean " in str(error.value)
    assert meant in str(error.value)


@pytest.mark.parametrize("index", [1000, -1, "1000", "-1", 10**30])
def test_indices_out_of_range(index):
    with pytest.raises(ValueError, match=r"out of range: there are classes 0\.\.999"):
        find_class(index, LABELS)


@pytest.mark.parametrize("name", ["", "  ", "xyzzy", "1.5", "--5", "²"])
def test_nothing_near(name):
    with pytest.raises(ValueError, match="unknown class"):
        find_class(name, LABELS)


@given(st.text(), st.lists(st.text(), max_size=4))
def test_any_text_is_found_or_refused(text, labels):
    try:
        found = find_class(text, labels)
    except ValueError:
        return
    assert 0 <= found < len(labels)
