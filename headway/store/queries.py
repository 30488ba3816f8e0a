"""The four data sets, each a query on the one table, each with a funnel that accounts for every row.

    midtrain_examples   every correct rollout of the teacher
    sft_examples        a small, clean, balanced share of those, at most k a problem
    dpo_pairs           one correct and one wrong rollout of the same problem
    rl_problems         training problems to sample afresh

TRAINABLE is part of every one of them: held-out and validation problems never come out. A query reads one version of the tables
however they grow meanwhile. DuckDB puts every rollout into its bin; only the texts that are looked at leave it, and token ids
never do. A truncated rollout has no end to learn, so it is dropped on both sides. This file does not know tokens or stages.
"""

# pyright: basic, reportMissingTypeStubs=false
# (the types of duckdb and pyarrow are partial)

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Generic, TypeVar

import duckdb

from headway.errors import StoreError
from headway.store.selection import balance, pair_up, repetition
from headway.store.store import Store
from headway.types import Example, Funnel, Outcome, Pair, Problem, Rollout, Split, StopReason, content_id

TRAINABLE = "split = 'train'"
VERIFIER = "rules@1"  # whose verdicts count
TEACHERS = ("teacher", "import")

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Selection(Generic[Row]):
    """What a query kept: the rows, their ids (the frozen selection), the funnel, and the table versions read."""

    rows: list[Row]
    ids: list[str]
    funnel: Funnel
    versions: dict[str, int]

    @property
    def name(self) -> str:
        """The query's name."""
        return self.funnel.name


# All rollouts of some samplers on TRAINABLE problems, each with its outcome (the first verdict of the verifier) and its bin:
# NULL where it is correct, whole, and not a text that its problem has already. Texts are compared by a 64-bit hash.
_BINNED = f"""
CREATE TEMP TABLE binned AS
WITH judged AS (
    SELECT r.place, r.id, r.problem_id, r.sampler, r.policy, r.step, r."index", r.num_tokens, v.outcome,
           r.stop_reason = 'length' AS is_truncated, hash(r.text) AS text_key
    FROM rollouts r
    SEMI JOIN (SELECT id FROM problems WHERE {TRAINABLE}) p ON r.problem_id = p.id
    LEFT JOIN (SELECT rollout_id, arg_min(outcome, place) AS outcome FROM verdicts WHERE verifier = $verifier GROUP BY ALL) v
        ON v.rollout_id = r.id
    WHERE list_contains($samplers::VARCHAR[], r.sampler) AND ($step IS NULL OR r.step = $step::BIGINT)
)
SELECT *, CASE
    WHEN outcome IS NULL THEN 'no verdict'
    WHEN outcome <> 'correct' THEN replace(outcome, '_', ' ')
    WHEN is_truncated THEN 'truncated'
    WHEN row_number() OVER (
        PARTITION BY problem_id, text_key, outcome = 'correct' AND NOT is_truncated
        ORDER BY sampler, policy, step, "index", place) > 1 THEN 'duplicate text'
    END AS bin
FROM judged
"""
_ORDER = 'ORDER BY b.problem_id, b.sampler, b.policy, b.step, b."index", b.place'


class _Binned:
    """The table `binned` over one version of the store, for as long as a `with` lasts."""

    def __init__(self, store: Store, samplers: Sequence[str], verifier: str, step: int | None = None):
        self.versions = store.versions()
        self.store = store.at(self.versions)
        self._given = {"samplers": list(samplers), "verifier": verifier, "step": step}

    def __enter__(self) -> _Binned:
        self._con = self.store.connect()
        try:
            self._con.execute(_BINNED, self._given)
        except duckdb.Error as error:
            self._con.close()
            raise StoreError(f"cannot read {self.store.path}: {str(error).splitlines()[0]}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._con.close()

    def dropped(self) -> Counter[str]:
        """Rollouts a bin."""
        query = "SELECT bin, count(*) FROM binned WHERE bin IS NOT NULL GROUP BY bin ORDER BY bin"
        return Counter(dict(self._con.sql(query).fetchall()))

    def rows(self, query: str, **values: Any) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, a few thousand in memory at once."""
        for batch in self._con.sql(query, params=values or None).to_arrow_reader(4096):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def texts(self, ids: Sequence[str]) -> dict[str, str]:
        """Rollout id -> text."""
        query = "SELECT b.id, r.text FROM binned b JOIN rollouts r USING (place) WHERE b.id IN (SELECT unnest($ids::VARCHAR[]))"
        return dict(self.rows(query, ids=list(ids)))  # type: ignore[arg-type]

    def problems(self, ids: Collection[str]) -> dict[str, Problem]:
        """Problem id -> problem."""
        return {problem.id: problem for problem in self.store.problems(ids=sorted(ids))}


def midtrain_examples(store: Store, samplers: Sequence[str] = TEACHERS, *, verifier: str = VERIFIER) -> Selection[Example]:
    """Every correct rollout, by (problem id, sampler, policy, step, index); a text that a problem already has is dropped."""
    with _Binned(store, samplers, verifier) as binned:
        query = f"SELECT b.problem_id, b.id, r.text FROM binned b JOIN rollouts r USING (place) WHERE b.bin IS NULL {_ORDER}"
        found = list(binned.rows(query))
        problems = binned.problems({problem_id for problem_id, _, _ in found})
        rows = [Example(problems[problem_id], rollout_id, text) for problem_id, rollout_id, text in found]
        return _selection("midtrain", rows, [row.rollout_id for row in rows], binned.dropped(), binned.versions)


def sft_examples(
    store: Store,
    *,
    per_problem: int,
    max_repetition: float,
    shortest: bool,
    max_examples: int,
    seed: int,
    max_tokens: int | None = None,
    samplers: Sequence[str] = TEACHERS,
    repetitive: Callable[[str], float] = repetition,
    verifier: str = VERIFIER,
) -> Selection[Example]:
    """Correct, not repetitive, at most k a problem, then balanced over family and difficulty down to `max_examples` (0 = all).

    Of a problem's rollouts the shortest in characters come first if `shortest`, else a seeded hash decides. `max_tokens`
    drops rollouts whose recorded number of tokens is higher; an imported one has none recorded and passes.
    """
    with _Binned(store, samplers, verifier) as binned:
        dropped = binned.dropped()
        query = f"""SELECT b.problem_id, b.id, b.num_tokens, r.text FROM binned b JOIN rollouts r USING (place)
                    WHERE b.bin IS NULL {_ORDER}"""
        clean: list[tuple[str, str, int]] = []  # (problem id, rollout id, characters)
        for problem_id, rollout_id, num_tokens, text in binned.rows(query):
            if max_tokens is not None and num_tokens > max_tokens:
                dropped["too long"] += 1
            elif repetitive(text) > max_repetition:
                dropped["repetitive"] += 1
            else:
                clean.append((problem_id, rollout_id, len(text)))
        clean.sort(key=lambda row: (row[2] if shortest else 0, content_id(seed, row[1])))
        taken: Counter[str] = Counter()
        few: list[tuple[str, str, int]] = []
        for row in clean:
            taken[row[0]] += 1
            if taken[row[0]] <= per_problem:
                few.append(row)
        dropped["over k a problem"] = len(clean) - len(few)
        problems = binned.problems(taken)
        kept = balance(few, lambda row: problems[row[0]], max_examples, seed) if max_examples else few
        dropped["balance"] = len(few) - len(kept)
        ids = sorted(rollout_id for _, rollout_id, _ in kept)
        problem_of = {rollout_id: problems[problem_id] for problem_id, rollout_id, _ in kept}
        texts = binned.texts(ids)
        rows = [Example(problem_of[rollout_id], rollout_id, texts[rollout_id]) for rollout_id in ids]
        return _selection("sft", rows, ids, dropped, binned.versions)


def dpo_pairs(
    store: Store,
    *,
    samplers: Sequence[str],
    pairs_per_problem: int,
    seed: int,
    step: int | None = None,
    allow_no_answer: bool = False,
    across_samplers: bool = False,
    verifier: str = VERIFIER,
) -> Selection[Pair]:
    """Pairs of a correct and a wrong rollout of one problem; the funnel counts problems.

    A rollout is in one pair at most. Pairs begin alike as far as possible (see `selection.pair_up`), of one sampler and policy
    each, since a pair across two authors teaches their style. With `across_samplers` what is left of a problem is paired across
    authors, too (`pair_report` counts such pairs). "all correct" and "all wrong" speak of the judged rollouts; "nothing to pair"
    has both kinds, but not two whole ones that may be paired.
    """
    query = f"""SELECT b.problem_id, b.sampler, b.policy, b.step, b."index", b.id, b.outcome, b.is_truncated, r.text
                FROM binned b JOIN rollouts r USING (place) {_ORDER}"""
    made: list[tuple[str, Rollout, Rollout]] = []
    dropped: Counter[str] = Counter()
    kept = 0
    with _Binned(store, samplers, verifier, step) as binned:
        for problem_id, group in groupby(binned.rows(query), key=lambda row: row[0]):
            rows = list(group)
            pairs = _pairs_of(rows, pairs_per_problem, seed, allow_no_answer, across_samplers)
            made += [(problem_id, chosen, rejected) for chosen, rejected in pairs]
            if pairs:
                kept += 1
            else:
                dropped[_why_unpaired({row[6] for row in rows} - {None})] += 1
        problems = binned.problems({problem_id for problem_id, _, _ in made})
    pairs = [Pair(problems[i], c.text, w.text, c.id, w.id, c.policy, w.policy) for i, c, w in made]
    funnel = Funnel("dpo", kept + dropped.total(), kept, dict(dropped))
    return _checked(Selection(pairs, [f"{p.chosen_id}/{p.rejected_id}" for p in pairs], funnel, binned.versions))


def _pairs_of(
    rows: Sequence[tuple[Any, ...]], limit: int, seed: int, allow_no_answer: bool, across: bool
) -> list[tuple[Rollout, Rollout]]:
    """At most `limit` (correct, wrong) pairs of one problem, author by author; with `across`, then of what is left."""
    rejected = {Outcome.WRONG, Outcome.NO_ANSWER} if allow_no_answer else {Outcome.WRONG}
    pairs: list[tuple[Rollout, Rollout]] = []
    all_correct: list[Rollout] = []
    all_wrong: list[Rollout] = []
    for _, group in groupby((row for row in rows if not row[7]), key=lambda row: row[1:3]):
        correct: list[Rollout] = []
        wrong: list[Rollout] = []
        for problem_id, sampler, policy, step, index, rollout_id, outcome, _, text in group:
            side = correct if outcome == Outcome.CORRECT else wrong if outcome in rejected else None
            if side is not None:
                stopped = StopReason.STOP  # truncated ones are left out above; pairing looks at texts only
                side.append(Rollout(rollout_id, problem_id, sampler, step, index, policy, text, stopped))
        pairs += pair_up(correct, wrong, limit - len(pairs), seed)
        all_correct += correct
        all_wrong += wrong
    if across:
        used = {rollout.id for pair in pairs for rollout in pair}
        correct = [rollout for rollout in all_correct if rollout.id not in used]
        wrong = [rollout for rollout in all_wrong if rollout.id not in used]
        pairs += pair_up(correct, wrong, limit - len(pairs), seed)
    return pairs


def _why_unpaired(outcomes: set[str]) -> str:
    """The bin of a problem without a pair, from the outcomes of its judged rollouts."""
    if not outcomes:
        return "no verdict"
    if outcomes == {Outcome.CORRECT}:
        return "all correct"
    if outcomes == {Outcome.UNVERIFIABLE}:
        return "unverifiable"
    return "nothing to pair" if Outcome.CORRECT in outcomes else "all wrong"


def rl_problems(
    store: Store,
    *,
    seed: int,
    limit: int = 0,
    families: Sequence[str] = (),
    exclude: Collection[str] = (),
    sampler: str = "",
    keep_all_wrong: bool = False,
    verifier: str = VERIFIER,
) -> Selection[Problem]:
    """Training problems in a seeded order; RL samples fresh groups for them.

    `exclude` holds ids used before. With `sampler`, a problem stays whose judged rollouts of it disagree, with `keep_all_wrong`
    also one where none is correct; without a judged rollout it is dropped. `limit` 0 takes all.
    """
    rates: dict[str, float] = {}
    with _Binned(store, [sampler] if sampler else [], verifier) as binned:
        query = """SELECT problem_id, avg((outcome = 'correct')::INT) FROM binned
                   WHERE outcome IS NOT NULL AND outcome <> 'unverifiable' GROUP BY problem_id"""
        rates.update(dict(binned.rows(query)))  # type: ignore[arg-type]
        found = binned.store.problems(TRAINABLE)
    wanted, left_out = set(families), set(exclude)
    chosen: list[Problem] = []
    dropped: Counter[str] = Counter()
    for problem in found:
        if wanted and problem.family not in wanted:
            dropped["other families"] += 1
        elif problem.id in left_out:
            dropped["used before"] += 1
        elif sampler and problem.id not in rates:
            dropped["no verdict"] += 1
        elif rates.get(problem.id) == 1.0:
            dropped["all correct"] += 1
        elif rates.get(problem.id) == 0.0 and not keep_all_wrong:
            dropped["all wrong"] += 1
        else:
            chosen.append(problem)
    chosen.sort(key=lambda p: content_id(seed, p.id))
    kept = chosen[:limit] if limit else chosen
    dropped["over the limit"] = len(chosen) - len(kept)
    return _selection("rl", kept, [p.id for p in kept], dropped, binned.versions)


def training_problems(store: Store, sources: Sequence[str] = ()) -> Selection[Problem]:
    """All training problems, in the order of the table; with `sources`, only theirs."""
    found = _all_of("train", store, TRAINABLE)
    if not sources:
        return found
    rows = [problem for problem in found.rows if problem.source in set(sources)]
    dropped = {"other sources": len(found.rows) - len(rows)}
    return _selection("train", rows, [problem.id for problem in rows], dropped, found.versions)


def validation_problems(store: Store) -> Selection[Problem]:
    """All validation problems, in the order of the table: for a loss that is watched, never trained on."""
    return _all_of("validation", store, f"split = '{Split.VALIDATION}'")


def heldout_problems(store: Store, *, limit: int = 0, seed: int = 0) -> Selection[Problem]:
    """Held-out problems for evaluation, balanced over sources when there are more than `limit`; the same for every run."""
    versions = store.versions()
    found = store.at(versions).problems(f"split = '{Split.HELDOUT}'")
    ordered = sorted(found, key=lambda p: content_id(seed, p.id))
    kept = balance(ordered, lambda p: p, limit, seed, by_difficulty=False) if limit else ordered
    return _selection("heldout", kept, [p.id for p in kept], {"over the limit": len(found) - len(kept)}, versions)


def _all_of(name: str, store: Store, where: str) -> Selection[Problem]:
    versions = store.versions()
    found = store.at(versions).problems(where)
    return _selection(name, found, [p.id for p in found], {}, versions)


def pair_report(pairs: Sequence[Pair]) -> dict[str, float]:
    """What the pairs would teach besides being right: lengths in characters, who is longer, who has a box, whose style."""
    if not pairs:
        return {"pairs": 0}
    n = len(pairs)
    return {
        "pairs": n,
        "chosen_characters": sum(len(p.chosen) for p in pairs) / n,
        "rejected_characters": sum(len(p.rejected) for p in pairs) / n,
        "chosen_longer": sum(len(p.chosen) > len(p.rejected) for p in pairs) / n,
        "rejected_longer": sum(len(p.chosen) < len(p.rejected) for p in pairs) / n,
        "chosen_boxed": sum("\\boxed" in p.chosen for p in pairs) / n,
        "rejected_boxed": sum("\\boxed" in p.rejected for p in pairs) / n,
        "same_format": sum(("\\boxed" in p.chosen) == ("\\boxed" in p.rejected) for p in pairs) / n,
        "across_samplers": sum(p.chosen_by != p.rejected_by for p in pairs) / n,
    }


def _selection(name: str, rows: list[Row], ids: list[str], dropped: dict[str, int], versions: dict[str, int]) -> Selection[Row]:
    """A selection whose funnel counts its rows."""
    return _checked(Selection(rows, ids, Funnel(name, len(rows) + sum(dropped.values()), len(rows), dict(dropped)), versions))


def _checked(selection: Selection[Row]) -> Selection[Row]:
    """The selection; StoreError with its funnel where it keeps nothing."""
    if not selection.rows:
        raise StoreError(f"the selection keeps nothing: {selection.funnel}")
    return selection
