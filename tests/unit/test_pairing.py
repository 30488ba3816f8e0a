"""Pairing on arrays gives what pairing one by one gives, for every rule; the common beginning is counted right."""

import random

import numpy as np
import pyarrow as pa
import pytest

from headway.store.pairing import Sides, pair_up, shared_beginnings
from headway.types import content_id


def sides(rows: list[tuple[int, int, bool, str, int]]) -> Sides:
    """Rows of (problem, author, is_right, text, share), in order of problem and author; ids are r0, r1, ..."""
    problem, author, is_right, texts, shares = (list(column) for column in zip(*rows, strict=True))
    keys = {text: i for i, text in enumerate(sorted(set(texts)))}
    numbers = [np.array(column, np.int64) for column in ([len(t) for t in texts], [keys[t] for t in texts], shares)]
    ids = pa.array([f"r{i}" for i in range(len(rows))])
    return Sides(np.array(problem), np.array(author), np.array(is_right), *numbers, ids, pa.array(texts))


def shared(a: str, b: str) -> int:
    """Bytes in common from the start, one by one."""
    one, other = a.encode(), b.encode()
    return next((i for i in range(min(len(one), len(other))) if one[i] != other[i]), min(len(one), len(other)))


def one_by_one(rows, limit, seed, rule, ratio, across) -> list[tuple[int, int]]:
    """The same pairs, without arrays."""
    made: list[tuple[int, int]] = []
    last = {(p, a, right, text): i for i, (p, a, right, text, _) in enumerate(rows)}
    rights, wrongs = ([i for i in sorted(last.values()) if rows[i][2] is side] for side in (True, False))
    for problem in sorted({row[0] for row in rows}):
        scored = []
        for c in (i for i in rights if rows[i][0] == problem):
            for w in (i for i in wrongs if rows[i][0] == problem):
                if rows[c][1] != rows[w][1] and not across:
                    continue
                a, b = rows[c][3], rows[w][3]
                if ratio and max(len(a), len(b)) > ratio * min(len(a), len(b)):
                    continue
                alike, apart = -shared(a, b), abs(len(a) - len(b))
                order = (apart, alike) if rule == "length" else (alike, apart)
                order = (-rows[w][4], *order) if rule == "hardest" else order
                author = rows[c][1] if rows[c][1] == rows[w][1] else 10**9
                scored.append(((author, *order), content_id(seed, f"r{c}", f"r{w}"), c, w))
        used: set[int] = set()
        for *_, c, w in sorted(scored):
            if len(used) < 2 * limit and not used & {c, w}:
                used |= {c, w}
                made.append((c, w))
    return made


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("rule", ["beginning", "length", "hardest"])
def test_arrays_pair_as_one_by_one(rule, across):
    chance = random.Random(f"{rule}{across}")
    beginnings = ["", "so ", "1+1=2; then ", "é" * 5, "a" * 30]
    tried = 0
    for _ in range(60):
        rows = []
        for problem in range(4):
            for author in range(chance.randint(1, 3)):
                for _ in range(chance.randint(0, 5)):
                    text = chance.choice(beginnings) + "".join(chance.choices("abé", k=chance.randint(0, 4)))
                    rows.append((problem, 10 * problem + author, chance.random() < 0.5, text, chance.randint(0, 2)))
        if not rows:
            continue
        for limit, ratio in ((1, 0.0), (2, 0.0), (9, 0.0), (2, 1.5)):
            right, wrong = pair_up(sides(rows), limit, 7, rule, ratio, across)
            found = list(zip(right.tolist(), wrong.tolist(), strict=True))
            assert found == one_by_one(rows, limit, 7, rule, ratio, across)
            tried += len(found)
    assert tried > 500


def test_a_length_rule_and_a_beginning_rule_choose_differently():
    rows = [
        (0, 0, True, "1+1=2; 12", 0),
        (0, 0, False, "1+1=2; and so on to 13", 1),  # the longer common beginning
        (0, 0, False, "I say: 14", 2),  # the same length; and what most of the wrong ones answer
    ]
    assert [pair_up(sides(rows), 1, 0, rule)[1].tolist() for rule in ("beginning", "length", "hardest")] == [[1], [2], [2]]
    assert pair_up(sides(rows), 1, 0, "beginning", 1.2)[1].tolist() == [2]  # 22 characters against 9 are too different
    assert [len(part) for part in pair_up(sides(rows[:1]), 1, 0)] == [0, 0]


def test_beginnings_are_counted_in_bytes_and_end_with_the_shorter_text():
    texts = ["", "abc", "abcd", "abcdefghij", "abcdefghiX", "éa", "èa", "abc\x00", "x" * 40 + "y", "x" * 40 + "z"]
    pairs = [(i, j) for i in range(len(texts)) for j in range(len(texts))]
    first, second = (np.array(column) for column in zip(*pairs, strict=True))
    found = shared_beginnings(pa.array(["before", *texts]).slice(1), first, second)
    assert found.tolist() == [shared(texts[i], texts[j]) for i, j in pairs]
    assert shared("éa", "èa") == 1  # C3 A9 and C3 A8
