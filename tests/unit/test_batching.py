"""Documents to batches: targets in their places, rows that nothing falls out of, epochs that ask everything once."""

import random
from collections import Counter
from itertools import islice

import pytest
import torch
from tiny_policy import VOCABULARY, tiny
from torch import Tensor

from headway.train.batching import (
    Document,
    Flat,
    _fullest,
    common_inputs,
    epochs,
    flatten,
    micro_batches,
    micro_batches_by_prompt,
    pack,
)
from headway.train.likelihood import document_logprobs


def test_flatten_by_hand() -> None:
    flat = flatten([Document((5, 9, 31, 1), first_target=2), Document((5, 7), 1), Document((4, 4, 4), 2)])
    assert flat.ids.tolist() == [5, 9, 31, 5, 4, 4]
    assert flat.targets.tolist() == [31, 1, 7, 4]
    assert flat.rows.tolist() == [1, 2, 3, 5]  # 9 predicts 31, 31 predicts 1; 5 predicts 7; the second 4 the third
    assert flat.owner.tolist() == [0, 0, 1, 2]
    assert flat.layout.positions.tolist() == [0, 1, 2, 0, 0, 1]  # positions restart
    assert (flat.num_documents, flat.num_tokens) == (3, 6)


def test_a_prompt_that_documents_share_is_laid_once_by_hand() -> None:
    one, two, other = Document((5, 9, 31, 1), 2), Document((5, 9, 7, 8, 1), 2), Document((5, 7), 1)
    flat = flatten([one, two, other, Document((5, 9, 1), 2)])
    assert flat.ids.tolist() == [5, 9, 31, 7, 8, 5]  # the last needs nothing beside its prompt
    assert flat.rows.tolist() == [1, 2, 1, 3, 4, 5, 1]  # the 9 of the one prompt predicts 31, 7 and 1
    assert flat.targets.tolist() == [31, 1, 7, 8, 1, 7, 1]
    assert flat.owner.tolist() == [0, 0, 1, 1, 1, 2, 3]
    assert flat.layout.positions.tolist() == [0, 1, 2, 2, 3, 0]


def test_what_documents_of_a_prompt_begin_with_beyond_it_is_laid_once_by_hand() -> None:
    one, two, other = Document((5, 9, 31, 7, 8), 2), Document((5, 9, 31, 7, 1, 2), 2), Document((5, 9, 31, 7, 8), 3)
    flat = flatten([one, two, Document((5, 9, 31, 4), 2), other])
    assert flat.ids.tolist() == [5, 9, 31, 7, 1, 5, 9, 31, 7]  # another prompt shares nothing, alike as it is
    assert flat.rows.tolist() == [1, 2, 3, 1, 2, 3, 4, 1, 2, 7, 8]  # the 7 of the first predicts the 1 of the second
    assert flat.targets.tolist() == [31, 7, 8, 31, 7, 1, 2, 31, 4, 7, 8]
    assert flat.owner.tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3]
    assert flat.layout.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert common_inputs(one, two) == 4
    assert common_inputs(one, Document((5, 9, 31, 7), 2)) == 3  # a last token is no input


@pytest.mark.parametrize("seed", range(12))
def test_shared_beginnings_change_no_logprob_and_no_gradient(seed: int) -> None:
    """Groups that part at random places after their prompt, against each document by itself."""
    chance = random.Random(seed)
    documents = []
    for group in range(3):
        stem = [chance.randrange(4, VOCABULARY) for _ in range(chance.randrange(2, 30))]
        prompt = chance.randrange(1, len(stem))
        for _ in range(chance.randrange(1, 5)):
            own = [chance.randrange(4, VOCABULARY) for _ in range(chance.randrange(8))]
            documents.append(Document((*stem[: chance.randrange(prompt, len(stem) + 1)], *own, group), prompt))
    chance.shuffle(documents)
    model = tiny(seed).double()
    weights = [torch.rand(d.num_targets, dtype=torch.float64) for d in documents]

    def found(flats: list[Flat]) -> tuple[Tensor, list[Tensor]]:
        model.zero_grad()
        logprobs = torch.cat([document_logprobs(model, flat) for flat in flats])
        (logprobs * torch.cat(weights)).sum().backward()
        return logprobs.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    flat = flatten(documents)
    assert flat.num_tokens < sum(len(d.ids) - 1 for d in documents) or len(documents) == 3
    together, alone = found([flat]), found([flatten([d]) for d in documents])
    torch.testing.assert_close(together[0], alone[0], rtol=0, atol=1e-5)
    for one, other in zip(together[1], alone[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("first_target", [1, 2, 5])
def test_the_stop_token_is_a_target_and_the_prompt_is_not(first_target: int) -> None:
    document = Document((11, 12, 13, 14, 15, 99), first_target)
    learned = flatten([document]).targets.tolist()
    assert learned == list(document.ids[first_target:])
    assert learned[-1] == 99
    assert len(learned) == document.num_targets


def test_a_document_of_one_token_has_nothing_to_predict() -> None:
    with pytest.raises(AssertionError, match="two tokens"):
        flatten([Document((5,), 1)])


def test_micro_batches_by_hand() -> None:
    # longest first: 9 alone (above 8), 6 (2 left: 3 does not fit), 3 3 2 fill 8, then 1
    assert micro_batches([3, 9, 2, 6, 3, 1], 8) == [[1], [3], [0, 4, 2], [5]]


@pytest.mark.parametrize("seed", range(20))
def test_micro_batches_hold_everything_once_within_the_limit(seed: int) -> None:
    chance = random.Random(seed)
    lengths = [chance.randrange(1, 40) for _ in range(chance.randrange(1, 60))]
    limit = chance.choice([1, 10, 64, 10_000])
    batches = micro_batches(lengths, limit)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in batch) <= limit or len(batch) == 1 for batch in batches)


def test_micro_batches_by_prompt_by_hand() -> None:
    a, b = (1, 2), (3, 4, 5)
    documents = [Document((*a, 9, 9), 2), Document((*b, 9, 9, 9), 3), Document((*a, 8), 2), Document((*b, 7), 3)]
    # prompt a: 2 + 2 + 1 = 5 tokens, prompt b: 3 + 3 + 1 = 7
    assert micro_batches_by_prompt(documents, 12) == [[1, 3, 0, 2]]
    assert micro_batches_by_prompt(documents, 11) == [[1, 3], [0, 2]]
    # 6 do not take all of b: its second document begins anew (4), and a's 5 stand before it
    assert micro_batches_by_prompt(documents, 6) == [[1], [0, 2], [3]]


@pytest.mark.parametrize("seed", range(20))
def test_micro_batches_by_prompt_hold_everything_once_within_the_limit(seed: int) -> None:
    chance = random.Random(seed)
    prompts = [tuple(chance.randrange(9) for _ in range(chance.randrange(1, 9))) for _ in range(5)]
    documents = []
    for _ in range(chance.randrange(1, 40)):
        prompt = chance.choice(prompts)
        documents.append(Document((*prompt, *range(100, 101 + chance.randrange(12))), len(prompt)))
    limit = chance.choice([1, 24, 64, 10_000])
    parts = micro_batches_by_prompt(documents, limit)
    assert sorted(i for part in parts for i in part) == list(range(len(documents)))
    assert all(flatten([documents[i] for i in part]).num_tokens <= limit or len(part) == 1 for part in parts)


def test_a_row_is_filled_best_by_hand() -> None:
    # the first is taken; of the others the earlier ones, as long as no others fill more
    assert _fullest([5, 4, 3, 2], 10) == [0, 2, 3]  # 4 would leave a place empty, 3 and 2 none
    assert _fullest([5, 4, 4, 4], 10) == [0, 1]
    assert _fullest([6, 7, 3, 1, 4, 2, 2], 10) == [0, 2, 3]  # 4 alone, or 2 and 2, would fill it, too
    assert _fullest([10, 1], 10) == [0]
    assert _fullest([4], 10) == [0]


def test_pack_fills_rows_exactly() -> None:
    assert sorted(map(len, pack([5, 5, 5, 5], 10))) == [2, 2]
    assert pack([10], 10) == [[0]]
    assert pack([], 10) == []


@pytest.mark.parametrize("seed", range(20))
def test_pack_loses_nothing_and_never_overfills(seed: int) -> None:
    chance = random.Random(seed)
    seq_len = chance.randrange(5, 80)
    lengths = [chance.randrange(1, seq_len + 1) for _ in range(chance.randrange(1, 200))]
    rows = pack(lengths, seq_len)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    filled = [sum(lengths[i] for i in row) for row in rows]
    assert max(filled) <= seq_len
    assert all(a + b > seq_len for n, a in enumerate(filled) for b in filled[:n])  # else the first would have taken the other
    left = set(range(len(lengths)))
    for row, full in zip(rows, filled, strict=True):  # no others that are left fill it better: all are within the window
        sums = {0}
        for i in left - {row[0]}:
            sums |= {n + lengths[i] for n in sums}
        assert full == max(n + lengths[row[0]] for n in sums if n + lengths[row[0]] <= seq_len)
        left -= set(row)


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_three_or_four_documents_are_full(seed: int) -> None:
    chance = random.Random(seed)
    lengths = [min(304, 109 + int(chance.expovariate(1 / 38))) for _ in range(4000)]
    rows = pack(lengths, 512)
    assert sorted(i for row in rows for i in row) == list(range(4000))
    assert sum(lengths) / (512 * len(rows)) > 0.985
    # and rows are mixed: the first and the last quarter of them hold documents of about the same lengths
    quarter = len(rows) // 4
    early, late = ([lengths[i] for row in part for i in row] for part in (rows[:quarter], rows[-quarter:]))
    assert sum(early) / len(early) == pytest.approx(sum(late) / len(late), rel=0.08)


@pytest.mark.parametrize("length", [0, 11])
def test_pack_refuses_what_is_no_item_of_a_row(length: int) -> None:
    with pytest.raises(AssertionError, match="longer than a row"):
        pack([3, length], 10)


@pytest.mark.parametrize(("items", "batch"), [(7, 3), (7, 7), (5, 1), (3, 8), (1, 4)])
def test_epochs_ask_each_item_once_an_epoch(items: int, batch: int) -> None:
    batches = list(islice(epochs(items, batch, seed=5), 4 * items))
    assert {len(one) for one in batches} == {batch}
    asked = [i for one in batches for i in one]
    for start in range(0, len(asked) - items + 1, items):
        assert sorted(asked[start : start + items]) == list(range(items))


def test_epochs_are_a_function_of_the_seed_and_differ_among_themselves() -> None:
    first, again, other = (list(islice(epochs(50, 50, seed), 3)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len({tuple(epoch) for epoch in first}) == 3


def test_epochs_of_nothing_are_refused_instead_of_searched_for_ever() -> None:
    with pytest.raises(AssertionError, match="needs items"):
        next(epochs(0, 4, 0))
    with pytest.raises(AssertionError, match="a batch"):
        next(epochs(4, 0, 0))


def test_every_epoch_is_drawn_evenly() -> None:
    first = Counter(next(epochs(4, 1, seed))[0] for seed in range(400))
    assert all(70 < first[i] < 130 for i in range(4))  # 100 each, sd 8.7
