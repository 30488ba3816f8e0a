"""The four data sets, each a query on the one table, each with a funnel that accounts for every row.

    midtrain_examples   every correct rollout of the teacher
    sft_examples        a small, clean, balanced share of those, at most k a problem
    dpo_pairs           one correct and one wrong rollout of the same problem
    rl_problems         training problems to sample afresh

TRAINABLE is part of every one of them: held-out and validation problems never come out. A query reads one version of the tables
however they grow meanwhile. DuckDB puts every rollout into its bin (`binned`); texts are read by DPO's pairing, and where a
selection's rows are looked at (`rows`). A truncated rollout has no end to learn, so it is dropped on both sides. This file does
not know tokens or stages.
"""

# pyright: basic, reportMissingTypeStubs=false, reportAttributeAccessIssue=false
# (the types of duckdb and pyarrow are partial)

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
import pyarrow as pa

from headway.store.binned import ORDER, TRAINABLE, VERIFIER, Binned
from headway.store.combined import COUNTS, PLACE_FIRST
from headway.store.pairing import BEGINNING, PairRule, Sides, pair_up
from headway.store.rows import Examples, Pairs, Selection
from headway.store.selection import Balance, Traits, balance, content_cells
from headway.store.store import Store
from headway.types import Example, Funnel, Outcome, Pair, Problem, Split, content_id

TEACHERS = ("teacher", "import")

_BY = f"ORDER BY {ORDER}"
_SIDED = """(SELECT *, outcome = 'correct' AND NOT is_truncated AS is_right,
                    list_contains($rejected::VARCHAR[], outcome) AND NOT is_truncated AS is_wrong FROM binned)"""
_CLEAN = """CREATE TEMP TABLE clean AS
    SELECT problem_id, r.id, place, r.characters,
           CASE WHEN r.num_tokens > $max_tokens::BIGINT THEN 'too long'
                WHEN r.repetition > $max_repetition THEN 'repetitive' END AS fault
    FROM binned JOIN (SELECT place, id, characters, num_tokens, repetition FROM rollouts) r USING (place) WHERE bin IS NULL"""
_OWNERS = (
    f"""CREATE TEMP TABLE owners AS SELECT {{author}} FROM {_SIDED} GROUP BY ALL HAVING bool_or(is_right) AND bool_or(is_wrong)"""
)
_SIDES = f"""CREATE TEMP TABLE sides AS
    SELECT place, is_right, row_number() OVER w AS number, dense_rank() OVER (ORDER BY problem_id) AS problem,
           dense_rank() OVER (ORDER BY problem_id, sampler, policy) AS author
    FROM {_SIDED} SEMI JOIN owners USING ({{author}}) WHERE is_right OR is_wrong WINDOW w AS ({_BY})"""
_SHARE = "CASE WHEN is_right OR answer = '' THEN 0 ELSE count(*) OVER (PARTITION BY problem, is_right, answer) END"
_ANSWERS = f"""LEFT JOIN (SELECT rollout_id, arg_min(coalesce(nullif(parsed, ''), extracted), {PLACE_FIRST}) AS answer
                          FROM verdicts
                          WHERE {COUNTS} GROUP BY ALL) v ON v.rollout_id = r.id"""


def midtrain_examples(store: Store, samplers: Sequence[str] = TEACHERS, *, verifier: str = VERIFIER) -> Selection[Example]:
    """Every correct rollout, by (problem id, sampler, policy, step, index); a text that a problem already has is dropped."""
    with Binned(store, samplers, verifier) as binned:
        query = f"SELECT r.id, place FROM binned b JOIN (SELECT place, id FROM rollouts) r USING (place) WHERE bin IS NULL {_BY}"
        ids: list[str] = []
        places = array("q")
        for rollout_id, place in binned.rows(query):
            ids.append(rollout_id)
            places.append(place)
        return Selection.of("midtrain", Examples(binned.store, places), ids, binned.dropped(), binned.versions)


def sft_examples(
    store: Store,
    *,
    per_problem: int,
    max_repetition: float,
    shortest: bool,
    max_examples: int,
    seed: int,
    by: Balance = "difficulty",
    max_tokens: int | None = None,
    samplers: Sequence[str] = TEACHERS,
    verifier: str = VERIFIER,
) -> Selection[Example]:
    """Correct, not repetitive, at most k a problem, then balanced down to `max_examples` (0 = all).

    Balanced over family and thirds of difficulty, or of length in characters (`by="length"`), or over cells of like questions
    (`by="diversity"`, see `selection.content_cells`). Of a problem's rollouts the shortest in characters come first if
    `shortest`, else a seeded hash decides. `max_tokens` drops rollouts whose recorded number of tokens is higher; an imported
    one has none recorded and passes.
    """
    # The rank leaves only ties at the k-th place to the hash below: most rows need not leave DuckDB.
    first = f"QUALIFY rank() OVER (PARTITION BY problem_id ORDER BY characters) <= {int(per_problem)}" if shortest else ""
    question = "question" if by == "diversity" else "''"
    query = f"""WITH few AS (SELECT * FROM clean WHERE fault IS NULL {first})
                SELECT problem_id, family, difficulty, {question}, few.id, few.place, characters
                FROM few JOIN problems p ON p.id = problem_id ORDER BY problem_id"""
    with Binned(store, samplers, verifier) as binned:
        dropped = binned.dropped()
        binned.execute(_CLEAN, max_tokens=max_tokens, max_repetition=max_repetition)
        faults = dict(binned.rows("SELECT fault, count(*) FROM clean GROUP BY fault ORDER BY fault"))
        num_clean = faults.pop(None, 0)
        dropped.update(faults)
        few: list[tuple[Traits, str, int]] = []  # what it is balanced by, rollout id, place
        for (problem_id, family, difficulty, question), group in groupby(binned.rows(query), itemgetter(0, 1, 2, 3)):
            found = [((row[6] if shortest else 0, content_id(seed, row[4])), row) for row in group]
            for _, (*_, rollout_id, place, characters) in sorted(found)[:per_problem]:
                traits = Traits(problem_id, question or family, float(characters) if by == "length" else difficulty)
                few.append((traits, rollout_id, place))
        dropped["over k a problem"] = num_clean - len(few)
        if by == "diversity" and 0 < max_examples < len(few):
            cells = content_cells([traits.group for traits, _, _ in few])
            few = [(Traits(t.problem_id, cell, 0.0), i, place) for (t, i, place), cell in zip(few, cells, strict=True)]
        kept = balance(few, lambda row: row[0], max_examples, seed) if max_examples else few
        dropped["balance"] = len(few) - len(kept)
        kept.sort(key=lambda row: row[1])
        rows = Examples(binned.store, array("q", (place for _, _, place in kept)))
        return Selection.of("sft", rows, [rollout_id for _, rollout_id, _ in kept], dropped, binned.versions)


def dpo_pairs(
    store: Store,
    *,
    samplers: Sequence[str],
    pairs_per_problem: int,
    seed: int,
    step: int | None = None,
    allow_no_answer: bool = False,
    across_samplers: bool = False,
    pair_by: PairRule = "beginning",
    max_length_ratio: float = 0.0,
    verifier: str = VERIFIER,
) -> Selection[Pair]:
    """Pairs of a correct and a wrong rollout of one problem; the funnel counts problems.

    A rollout is in one pair at most. Which pairs come first says `pair_by` (see `selection.pair_up`), of one sampler and policy
    each, since a pair across two authors teaches their style. With `across_samplers` what is left of a problem is paired across
    authors, too (`pair_report` counts such pairs). "all correct" and "all wrong" speak of the judged rollouts; "nothing to pair"
    has both kinds, but not two whole ones that may be paired; "lengths too different" has such, beyond `max_length_ratio`.
    """
    rejected = [Outcome.WRONG, Outcome.NO_ANSWER] if allow_no_answer else [Outcome.WRONG]
    author = "problem_id" if across_samplers else "problem_id, sampler, policy"
    unpaired = """WITH unpaired AS (SELECT string_agg(DISTINCT outcome, ',' ORDER BY outcome) AS outcomes
                                    FROM binned ANTI JOIN owners USING (problem_id) GROUP BY problem_id)
                  SELECT outcomes, count(*) FROM unpaired GROUP BY outcomes ORDER BY outcomes"""
    query = f"""SELECT s.*, r.text_key, r.id, r.characters, left(r.text, {BEGINNING}) AS text,
                       {_SHARE if pair_by == "hardest" else "0::BIGINT"} AS share
                FROM sides s JOIN rollouts r USING (place) {_ANSWERS if pair_by == "hardest" else ""} ORDER BY number"""
    ids: list[str] = []
    places: list[list[np.ndarray]] = [[], []]
    kept = considered = 0
    dropped: Counter[str] = Counter()
    with Binned(store, samplers, verifier, step) as binned:
        binned.execute(_OWNERS.format(author=author), rejected=rejected)
        binned.execute(_SIDES.format(author=author), rejected=rejected)
        for outcomes, count in binned.rows(unpaired):
            dropped[_why_unpaired(set(outcomes.split(",")) if outcomes else set())] += count
        given = {"verifier": verifier} if pair_by == "hardest" else {}
        for rows in binned.groups(query, "problem", **given):
            sides = _sides(rows)
            right, wrong = pair_up(sides, pairs_per_problem, seed, pair_by, max_length_ratio, across_samplers)
            kept += len(np.unique(sides.problem[right]))
            considered += len(np.unique(sides.problem))
            ids += [
                f"{chosen}/{other}"
                for chosen, other in zip(*(sides.ids.take(i).to_pylist() for i in (right, wrong)), strict=True)
            ]
            for side, numbers in zip(places, (right, wrong), strict=True):
                side.append(rows.column("place").to_numpy()[numbers])
        if considered > kept:
            dropped["lengths too different"] = considered - kept
        pairs = Pairs(binned.store, *(np.concatenate([np.zeros(0, np.int64), *side]) for side in places))
        funnel = Funnel("dpo", kept + dropped.total(), kept, dict(dropped))
        return Selection.checked(pairs, ids, funnel, binned.versions)


def _sides(rows: pa.Table) -> Sides:
    """The rows of whole problems, for pairing."""
    numbers = [rows.column(name).to_numpy() for name in ("problem", "author", "is_right", "characters", "text_key", "share")]
    return Sides(*numbers, *(rows.column(name).combine_chunks() for name in ("id", "text")))


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
    query = f"""
        WITH rates AS (SELECT problem_id, avg((outcome = 'correct')::INT) AS rate FROM binned
                       WHERE outcome IS NOT NULL AND outcome <> 'unverifiable' GROUP BY problem_id)
        SELECT id, CASE
            WHEN len($families::VARCHAR[]) > 0 AND NOT list_contains($families::VARCHAR[], family) THEN 'other families'
            WHEN id IN (SELECT unnest($exclude::VARCHAR[])) THEN 'used before'
            WHEN NOT $by_rate THEN NULL
            WHEN rate IS NULL THEN 'no verdict'
            WHEN rate = 1 THEN 'all correct'
            WHEN rate = 0 AND NOT $keep_all_wrong THEN 'all wrong' END
        FROM problems LEFT JOIN rates ON problem_id = id WHERE {TRAINABLE}"""
    chosen: list[str] = []
    dropped: Counter[str] = Counter()
    with Binned(store, [sampler] if sampler else [], verifier) as binned:
        given = {"families": list(families), "exclude": list(exclude), "by_rate": bool(sampler), "keep_all_wrong": keep_all_wrong}
        for problem_id, fault in binned.rows(query, **given):
            if fault:
                dropped[fault] += 1
            else:
                chosen.append(problem_id)
        chosen.sort(key=lambda problem_id: content_id(seed, problem_id))
        kept = chosen[:limit] if limit else chosen
        dropped["over the limit"] = len(chosen) - len(kept)
        by_id = {problem.id: problem for problem in binned.store.problems(ids=kept)}
        return Selection.of("rl", [by_id[i] for i in kept], kept, dropped, binned.versions)


def training_problems(store: Store, sources: Sequence[str] = ()) -> Selection[Problem]:
    """All training problems, in the order of the table; with `sources`, only theirs."""
    found = _all_of("train", store, TRAINABLE)
    if not sources:
        return found
    rows = [problem for problem in found.rows if problem.source in set(sources)]
    dropped = {"other sources": len(found.rows) - len(rows)}
    return Selection.of("train", rows, [problem.id for problem in rows], dropped, found.versions)


def validation_problems(store: Store) -> Selection[Problem]:
    """All validation problems, in the order of the table: for a loss that is watched, never trained on."""
    return _all_of("validation", store, f"split = '{Split.VALIDATION}'")


def heldout_problems(store: Store, *, limit: int = 0, seed: int = 0) -> Selection[Problem]:
    """Held-out problems for evaluation, balanced over sources when there are more than `limit`; the same for every run."""
    versions = store.versions()
    found = store.at(versions).problems(f"split = '{Split.HELDOUT}'")
    ordered = sorted(found, key=lambda p: content_id(seed, p.id))
    kept = balance(ordered, lambda p: Traits(p.id, p.source, 0.0), limit, seed) if limit else ordered
    return Selection.of("heldout", kept, [p.id for p in kept], {"over the limit": len(found) - len(kept)}, versions)


def _all_of(name: str, store: Store, where: str) -> Selection[Problem]:
    versions = store.versions()
    found = store.at(versions).problems(where)
    return Selection.of(name, found, [p.id for p in found], {}, versions)


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
