"""LIMO's subset (arXiv 2502.03387, v2): few problems that are hard but not hopeless, each with its best-explained solution.

    problems   not solved by an easier model; solved `low` to `high` times in `tries` by a harder one  (paper: 4 tries; 1-3 of 32)
    solutions  of each problem the one with the highest score; of all, the `max_examples` highest      (paper: 800)

The score is `selection.solution_scores`. Models are told apart by `Rollout.policy`. The paper's subset lifts a 32B model and
harms a 3.8B one that was not mid-trained (Phi-4-Mini-Reasoning, table 1): use it after mid-training.
"""

# pyright: basic, reportMissingTypeStubs=false
# (the types of duckdb and pyarrow are partial)

from __future__ import annotations

from collections.abc import Sequence

from headway.store.binned import VERIFIER, Binned
from headway.store.rows import Examples, Selection
from headway.store.selection import solution_scores
from headway.store.store import Store
from headway.types import Example

_COUNTED = """
CREATE TEMP TABLE counted AS
SELECT problem_id, count(*) FILTER (counts AND is_hard) AS tried, count(*) FILTER (outcome = 'correct' AND is_hard) AS solved,
       count(*) FILTER (outcome = 'correct' AND is_easy) AS solved_easily
FROM (SELECT *, outcome IS NOT NULL AND outcome <> 'unverifiable' AS counts, policy = $easy AS is_easy,
             policy <> $easy AND $hard IN ('', policy) AS is_hard FROM binned)
GROUP BY problem_id
"""
_FITTING = """
SELECT problem_id, r.id, place, CASE
    WHEN solved_easily > 0 THEN 'solved by the easier model'
    WHEN tried < $tries THEN 'tried too seldom'
    WHEN solved < $low THEN 'solved too seldom'
    WHEN solved > $high THEN 'solved too often' END AS fault, CASE WHEN fault IS NULL THEN r.text END
FROM binned b JOIN counted USING (problem_id) JOIN rollouts r USING (place)
WHERE bin IS NULL ORDER BY problem_id, r.id
"""


def limo_examples(
    store: Store,
    *,
    easy: str = "",
    hard: str = "",
    low: int = 1,
    high: int = 3,
    tries: int = 32,
    max_examples: int = 800,
    samplers: Sequence[str] = ("teacher", "import"),
    verifier: str = VERIFIER,
) -> Selection[Example]:
    """LIMO's subset of the correct rollouts; the funnel counts rollouts.

    `easy` and `hard` are policies; `easy` "" skips the first rule, `hard` "" counts every policy but `easy`. A try is a judged
    rollout, UNVERIFIABLE ones are none. Solutions of the easier model are candidates, too, but it solved none of what is left.
    """
    with Binned(store, samplers, verifier) as binned:
        dropped = binned.dropped()
        binned.execute(_COUNTED, easy=easy, hard=hard)
        found: list[tuple[str, str, int]] = []
        texts: list[str] = []
        for problem_id, rollout_id, place, fault, text in binned.rows(_FITTING, tries=tries, low=low, high=high):
            if fault:
                dropped[fault] += 1
            else:
                found.append((problem_id, rollout_id, place))
                texts.append(text)
        best: dict[str, tuple[float, str, int]] = {}
        for (problem_id, rollout_id, place), score in zip(found, solution_scores(texts), strict=True):
            if problem_id not in best or score > best[problem_id][0]:
                best[problem_id] = score, rollout_id, place
        kept = sorted(best.values(), key=lambda row: (-row[0], row[1]))[:max_examples]
        dropped["not the best of its problem"] = len(found) - len(best)
        dropped["lower score"] = len(best) - len(kept)
        kept.sort(key=lambda row: row[1])
        rows = Examples(binned.store, [place for _, _, place in kept])
        return Selection.of("limo", rows, [rollout_id for _, rollout_id, _ in kept], dropped, binned.versions)
