"""Pass counts of problems: how many of a problem's judged rollouts are correct. What `problems.label` turns into a difficulty.

The outcome of a rollout is the first verdict of the verifier, as in `queries`; rollouts that it called unverifiable, or did not
judge, do not count. Rollouts are counted over all splits: difficulty is also asked of held-out problems. DuckDB counts; only
one row a problem leaves it. This file does not know what a count means.
"""

# pyright: basic, reportMissingTypeStubs=false
# (the types of duckdb and pyarrow are partial)

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from headway.errors import StoreError
from headway.store.combined import COUNTS, PLACE_FIRST
from headway.store.queries import VERIFIER
from headway.store.store import Store

_COUNTS = f"""
SELECT r.problem_id, count(*)::BIGINT AS n, count(*) FILTER (WHERE v.outcome = 'correct')::BIGINT AS correct
FROM (SELECT id, problem_id FROM rollouts WHERE list_contains($samplers::VARCHAR[], sampler)) r
JOIN (SELECT rollout_id, arg_min(outcome, {PLACE_FIRST}) AS outcome FROM verdicts WHERE {COUNTS} GROUP BY ALL) v
    ON v.rollout_id = r.id
WHERE v.outcome <> 'unverifiable'
GROUP BY r.problem_id ORDER BY r.problem_id
"""


def pass_counts(store: Store, samplers: Sequence[str], verifier: str = VERIFIER) -> pa.Table:
    """One row a problem with a judged rollout of these samplers: problem_id (string), n and correct (int64), by problem id.

    A rollout that was stored twice under one id counts once for each row, as it does for every query. StoreError where the
    store cannot be read.
    """
    with store.connect() as con:
        try:
            return con.sql(_COUNTS, params={"samplers": list(samplers), "verifier": verifier}).to_arrow_table()
        except duckdb.Error as error:
            raise StoreError(f"cannot read {store.path}: {str(error).splitlines()[0]}") from None
