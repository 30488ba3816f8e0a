"""Packed rows for the stages that pack: documents end to end up to `seq_len`, rows drawn in seeded epochs.

Within a row documents never see each other; a row only says what is computed together. It does not know the documents'
meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from headway.train.batching import Document, epochs, pack


def row_batches(
    documents: Sequence[Document], seq_len: int, batch_rows: int, seed: int
) -> tuple[list[list[int]], Callable[[], Iterator[list[int]]]]:
    """The packed rows (document numbers) and a stream of batches of `batch_rows` rows, as document numbers.

    Every document must fit into `seq_len` tokens (asserted: the stages drop longer ones and count them).
    """
    rows = pack([len(document.ids) for document in documents], seq_len)

    def batches() -> Iterator[list[int]]:
        for numbers in epochs(len(rows), min(batch_rows, len(rows)), seed):
            yield [i for number in numbers for i in rows[number]]

    return rows, batches
