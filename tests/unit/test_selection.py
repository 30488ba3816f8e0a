"""The rules of choice, on numbers worked out by hand."""

import pytest

from headway.store.selection import content_cells, repetition, solution_scores


@pytest.mark.parametrize(
    ("text", "share"), [("", 0.0), ("a\n\nb", 0.0), ("a\n a \na", 2 / 3), ("a\nb\na\nb", 0.5), ("\n\n", 0.0)]
)
def test_repetition_is_the_share_of_lines_that_were_there_before(text, share):
    assert repetition(text) == pytest.approx(share)


def test_a_solution_score_adds_four_shares():
    # lengths 1, 2, 3 words: shares below (with half of the equal ones) 1/6, 3/6, 5/6.
    # checking: 0, 1/2, 0 of the words -> 2/6, 5/6, 2/6; exploring: 0, 0, 1/3 -> 2/6, 2/6, 5/6;
    # connecting: 1, 0, 0 -> 5/6, 2/6, 2/6
    texts = ["thus", "Check it", "perhaps it is"]
    expected = [
        0.3 * 1 / 6 + 0.2 * 2 / 6 + 0.25 * 2 / 6 + 0.25 * 5 / 6,
        0.3 * 3 / 6 + 0.2 * 5 / 6 + 0.25 * 2 / 6 + 0.25 * 2 / 6,
        0.3 * 5 / 6 + 0.2 * 2 / 6 + 0.25 * 5 / 6 + 0.25 * 2 / 6,
    ]
    assert solution_scores(texts) == pytest.approx(expected)
    assert solution_scores([]) == []
    assert solution_scores(["", ""]) == pytest.approx([0.5, 0.5])


def test_questions_in_the_same_words_share_a_cell_whatever_their_numbers():
    cells = content_cells(["Tom has 3 apples.", "Tom has 41 apples!", "Find the area of a circle.", ""])
    assert cells[0] == cells[1] != cells[2]
    assert {len(cell) for cell in cells[:3]} == {12}
