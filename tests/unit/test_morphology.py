"""Words related by their form."""

import pytest

from headway.problems.likeness.morphology import akin, contrary


@pytest.mark.parametrize(
    ("a", "b"),
    [("bookshelf", "shelf"), ("shelv", "shelf"), ("mathematical", "mathematic"), ("equally", "equal"), ("arrang", "arrangement")],
)
def test_parts_and_derivations_of_a_word_are_akin(a, b):
    assert akin(a, b)
    assert akin(b, a)


@pytest.mark.parametrize(("a", "b"), [("contest", "content"), ("day", "workday"), ("cat", "category"), ("sold", "bought")])
def test_what_only_looks_alike_is_not(a, b):
    assert not akin(a, b)
    assert not akin(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("overstate", "understate"),
        ("increase", "decrease"),
        ("include", "exclude"),
        ("lucky", "unlucky"),
        ("careful", "careless"),
    ],
)
def test_contraries_by_a_prefix_or_an_ending(a, b):
    assert contrary(a, b)
    assert contrary(b, a)
    assert not contrary(a, a)
