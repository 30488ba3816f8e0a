"""Every rollout of some samplers in exactly one bin, over one version of the store: what the queries start from.

    rollouts --semi join--> on TRAINABLE problems --left join--> verdicts of one verifier --> judged --> binned

The first verdict of the verifier counts; `combined` says what several named together mean. A bin is NULL where the rollout is
correct, whole, and not a text that its problem has already; texts are compared by `text_key`. DuckDB does the work in bounded
memory, and no text is read.

This file does not know what the rows are selected for.
"""

# pyright: basic, reportMissingTypeStubs=false, reportAttributeAccessIssue=false
# (the types of duckdb and pyarrow are partial)

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from headway.errors import StoreError
from headway.store.combined import COUNTS, PLACE_FIRST
from headway.store.store import Store

TRAINABLE = "split = 'train'"
VERIFIER = "rules@1"  # whose verdicts count
_CHUNK = 32_768  # rows
ORDER = 'problem_id, sampler, policy, step, "index", place'  # of rollouts, wherever an order is promised

_JUDGED = f"""
CREATE TEMP TABLE judged AS
SELECT r.place, r.problem_id, r.sampler, r.policy, r.step, r."index", r.text_key, v.outcome,
       r.stop_reason = 'length' AS is_truncated
FROM rollouts r
SEMI JOIN (SELECT id FROM problems WHERE {TRAINABLE}) p ON r.problem_id = p.id
LEFT JOIN (SELECT rollout_id, arg_min(outcome, {PLACE_FIRST}) AS outcome FROM verdicts WHERE {COUNTS} GROUP BY ALL) v
    ON v.rollout_id = r.id
WHERE list_contains($samplers::VARCHAR[], r.sampler) AND ($step IS NULL OR r.step = $step::BIGINT)
"""
_USABLE = "outcome = 'correct' AND NOT is_truncated"
_AGAIN = f"""
CREATE TEMP TABLE again AS
WITH doubled AS (SELECT problem_id, text_key FROM judged WHERE {_USABLE} GROUP BY ALL HAVING count(*) > 1)
SELECT place FROM judged SEMI JOIN doubled USING (problem_id, text_key) WHERE {_USABLE}
QUALIFY row_number() OVER (PARTITION BY problem_id, text_key ORDER BY sampler, policy, step, "index", place) > 1
"""
_BINNED = """
CREATE TEMP VIEW binned AS
SELECT j.*, CASE
    WHEN outcome IS NULL THEN 'no verdict'
    WHEN outcome <> 'correct' THEN replace(outcome, '_', ' ')
    WHEN is_truncated THEN 'truncated'
    WHEN a.place IS NOT NULL THEN 'duplicate text'
END AS bin
FROM judged j LEFT JOIN again a USING (place)
"""


class Binned:
    """The view `binned` (one row a rollout: place, coordinates, outcome, is_truncated, bin) for as long as a `with` lasts.

    `step` keeps the rollouts of one optimizer step. StoreError where the store cannot be read.
    """

    def __init__(self, store: Store, samplers: Sequence[str], verifier: str, step: int | None = None):
        self.versions = store.versions()
        self.store = store.at(self.versions)
        self._given = {"samplers": list(samplers), "verifier": verifier, "step": step}

    def __enter__(self) -> Binned:
        self._con = self.store.connect(ordered=False)
        try:
            self._con.execute(_JUDGED, self._given)
            self._con.execute(_AGAIN)
            self._con.execute(_BINNED)
        except duckdb.Error as error:
            self._con.close()
            raise StoreError(f"cannot read {self.store.path}: {str(error).splitlines()[0]}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._con.close()

    def execute(self, statement: str, **values: Any) -> None:
        """A statement of ours that makes a temporary table over `binned`."""
        self._con.execute(statement, values or None)

    def dropped(self) -> Counter[str]:
        """Rollouts a bin."""
        query = "SELECT bin, count(*) FROM binned WHERE bin IS NOT NULL GROUP BY bin ORDER BY bin"
        return Counter(dict(self._con.sql(query).fetchall()))

    def rows(self, query: str, **values: Any) -> Iterator[tuple[Any, ...]]:
        """The rows of a query over `binned` and the store's views, a few thousand in memory at once."""
        return rows_of(self._con, query, **values)

    def groups(self, query: str, by: str, **values: Any) -> Iterator[pa.Table]:
        """The rows of a query that sorts by the column `by`, some ten thousands at once, its equal values always together."""
        held: list[pa.RecordBatch] = []
        for batch in self._con.sql(query, params=values or None).to_arrow_reader(_CHUNK):
            if held:
                column = batch.column(by)
                last = held[-1].column(by)[-1]
                same = pc.index(pc.equal(column, last), False).as_py()  # rows that still belong to what is held
                if same < 0:
                    held.append(batch)
                    continue
                yield pa.Table.from_batches([*held, batch.slice(0, same)])
                batch = batch.slice(same)
            tail = pc.index(batch.column(by), batch.column(by)[-1]).as_py()
            if tail:
                yield pa.Table.from_batches([batch.slice(0, tail)])
            held = [batch.slice(tail)]
        if held:
            yield pa.Table.from_batches(held)


def rows_of(con: duckdb.DuckDBPyConnection, query: str, **values: Any) -> Iterator[tuple[Any, ...]]:
    """The rows of a query, a few thousand in memory at once; `values` are its named parameters."""
    for batch in con.sql(query, params=values or None).to_arrow_reader(4096):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
