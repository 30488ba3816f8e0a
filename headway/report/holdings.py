"""What a store holds, as plain numbers: problems, rollouts, verdicts, lengths, pass rates, and what deserves a warning.

    three tables --one scan--> seen(problem, sampler, lengths, hash of the text, first verdict) --group by--> Holdings

A rollout counts by the first verdict that the verifier gave it; a rate leaves UNVERIFIABLE out, as everywhere. All of it is SQL
over one version of the tables: no row becomes a Python object, DuckDB spills to disk beyond its limit, and texts are looked at
once, for their length and a 64-bit hash. It does not know how a number is shown: `holdings_terminal` and `holdings_page` do.
"""

# pyright: basic
# (the types of duckdb are partial)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb

from headway.errors import StoreError
from headway.store.combined import COUNTS, PLACE_FIRST
from headway.store.queries import TEACHERS, VERIFIER
from headway.store.store import Store

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
RATE_BINS = ("0", "0–20", "20–40", "40–60", "60–80", "80–100", "100")  # percent; the outer two are exact
OUTCOMES = ("correct", "wrong", "no_answer", "unverifiable")
_TOP_REASONS = 8
_DIFFICULTY_BINS = 10


@dataclass(frozen=True, slots=True)
class ProblemGroup:
    """Problems of one source, split, family and domain ("" where their metadata name none).

    Example: ``ProblemGroup("gsm8k", "train", "gsm8k", "", problems=7473, solutions=7473, difficulty=(0.0, 3.0, 8.0))``;
    `difficulty` is lowest, median, highest.
    """

    source: str
    split: str
    family: str
    domain: str
    problems: int
    solutions: int
    difficulty: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Author:
    """Rollouts of one sampler and policy. In RL, where each step is a policy of its own, all steps together.

    Example: ``Author("rl", "tiny/rl", problems=96, rollouts=768, truncated=4, outcomes={"correct": 500, …}, unjudged=0)``
    """

    sampler: str
    policy: str
    problems: int
    rollouts: int
    truncated: int
    outcomes: dict[str, int]
    unjudged: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long a sampler's rollouts are, in `unit` ("characters", or "tokens" where any are recorded).

    `quantiles` belong to QUANTILES. `histogram` has (from, below, count), each bin twice as wide as the one before.
    """

    sampler: str
    unit: str
    rollouts: int
    quantiles: tuple[int, ...]
    histogram: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class PassRates:
    """The share of correct rollouts a problem, over the problems of a sampler. `bins` belong to RATE_BINS."""

    sampler: str
    problems: int
    mean: float
    bins: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know before training. Example: ``Finding("duplicate_texts", 12, 960, True)``: 12 of 960, a warning.

    `name` is that of an entry of the glossary. What is no warning is worth knowing all the same.
    """

    name: str
    count: int
    of: int
    is_warning: bool


@dataclass(frozen=True, slots=True)
class LabelGroup:
    """Problems that one labeller calls alike. Example: ``LabelGroup("model:m@1", "geometry", "high school", problems=120)``"""

    labeller: str
    domain: str
    difficulty: str
    problems: int


@dataclass(frozen=True, slots=True)
class Holdings:
    """All of it, samplers in the order in which they first wrote.

    `verdicts` counts the table's rows by verifier and outcome; everything else speaks of the verifier `verifier`.
    """

    num_problems: int
    num_rollouts: int
    num_verdicts: int
    verifier: str
    problems: tuple[ProblemGroup, ...]
    difficulties: dict[str, tuple[tuple[float, float, int], ...]]
    authors: tuple[Author, ...]
    verdicts: dict[str, dict[str, int]]
    reasons: tuple[tuple[str, str, int], ...]
    lengths: tuple[Lengths, ...]
    pass_rates: tuple[PassRates, ...]
    findings: tuple[Finding, ...]
    labels: tuple[LabelGroup, ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """What `headway data --json` prints."""
        return asdict(self)


def holdings(store: Store, verifier: str = VERIFIER) -> Holdings:
    """Count everything in one version of the tables. StoreError in one line where they cannot be read."""
    with store.at(store.versions()).connect() as con:
        try:
            con.execute(_SEEN.replace("{first}", PLACE_FIRST).replace("{counts}", COUNTS), {"verifier": verifier})
            con.execute(_RATES)
            authors = tuple(_author(row) for row in con.execute(_AUTHORS).fetchall())
            order = list(dict.fromkeys(author.sampler for author in authors))
            rates = [PassRates(name, n, mean, tuple(bins)) for name, n, mean, *bins in con.execute(_RATE_BINS).fetchall()]
            lengths = [*_lengths(con, "characters"), *_lengths(con, "tokens")]
            problems, rollouts, verdicts = (con.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0] for name in _TABLES)
            return Holdings(
                problems,
                rollouts,
                verdicts,
                verifier,
                tuple(_group(row) for row in con.execute(_PROBLEMS).fetchall()),
                _difficulties(con),
                authors,
                _verdicts(con),
                tuple(con.execute(_REASONS).fetchall()),
                tuple(sorted(lengths, key=lambda row: (row.unit, order.index(row.sampler)))),
                tuple(sorted(rates, key=lambda row: order.index(row.sampler))),
                tuple(_findings(con)),
                tuple(LabelGroup(*row) for row in con.execute(_LABELS).fetchall()),
            )
        except duckdb.Error as error:
            raise StoreError(f"cannot read {store.path}: {str(error).splitlines()[0]}") from None


def octaves(lengths: Sequence[Lengths]) -> list[int]:
    """The lower ends of all bins between the lowest and the highest that any of `lengths` fills: 16, 32, 64, ..."""
    lows = [low for row in lengths for low, _, _ in row.histogram]
    first, last = min(lows), max(lows)
    powers = [2**power for power in range(last.bit_length()) if 2**power >= first]
    return [0, *powers] if first == 0 else powers


_TABLES = ("problems", "rollouts", "verdicts")

# Every rollout once, without its text. Ids are compared by a 64-bit hash, which is a third of their size: among 10 M of them two
# fall together with a chance of 3 in a million.
_SEEN = """
CREATE TEMP TABLE seen AS
WITH first AS (
    SELECT hash(rollout_id) AS rollout, arg_min({'outcome': outcome, 'reason': reason}, {first}) AS said
    FROM verdicts WHERE {counts} GROUP BY rollout
)
SELECT r.place, hash(r.problem_id) AS problem, r.sampler,
       CASE WHEN starts_with(r.sampler, 'rl') THEN regexp_replace(r.policy, '@[0-9]+$', '') ELSE r.policy END AS policy,
       r.characters, r.num_tokens AS tokens, hash(r.problem_id, r.text_key) AS text_key,
       r.stop_reason = 'length' AS is_truncated, first.said.outcome AS outcome, first.said.reason AS reason
FROM rollouts r LEFT JOIN first ON first.rollout = hash(r.id)
"""
_RATES = """
CREATE TEMP TABLE rates AS
SELECT sampler, problem, avg((outcome = 'correct')::INT) AS rate FROM seen
WHERE outcome IS NOT NULL AND outcome <> 'unverifiable' GROUP BY sampler, problem
"""
_PROBLEMS = """
SELECT source, split, family,
       CASE WHEN json_valid(metadata) THEN coalesce(json_extract_string(metadata, '$.domain'),
           json_extract_string(metadata, '$.subject'), json_extract_string(metadata, '$.topic'), '') ELSE '' END AS domain,
       count(*) AS problems, count(*) FILTER (solution <> ''), min(difficulty), median(difficulty), max(difficulty)
FROM problems GROUP BY source, split, family, domain ORDER BY source, split, problems DESC, family, domain
"""
_AUTHORS = f"""
SELECT sampler, policy, count(DISTINCT problem), count(*), count(*) FILTER (is_truncated), count(*) FILTER (outcome IS NULL),
       {", ".join(f"count(*) FILTER (outcome = '{outcome}')" for outcome in OUTCOMES)}
FROM seen GROUP BY sampler, policy ORDER BY min(min(place)) OVER (PARTITION BY sampler), min(place)
"""
_LABELS = """
SELECT labeller, said.domain, said.difficulty, count(*) AS n
FROM (SELECT labeller, arg_max({'domain': domain, 'difficulty': difficulty, 'value': value}, place) AS said
      FROM labels GROUP BY labeller, problem_id)
GROUP BY ALL ORDER BY labeller, said.domain, min(said.value), said.difficulty
"""
_REASONS = f"""
SELECT outcome, reason, count(*) AS n FROM seen WHERE outcome <> 'correct'
GROUP BY outcome, reason ORDER BY n DESC, outcome, reason LIMIT {_TOP_REASONS}
"""
_RATE_BINS = f"""
SELECT sampler, count(*), avg(rate), count(*) FILTER (rate = 0),
       {", ".join(f"count(*) FILTER (rate > 0 AND rate < 1 AND least(floor(rate * 5 + 1e-9), 4) = {i})" for i in range(5))},
       count(*) FILTER (rate = 1)
FROM rates GROUP BY sampler
"""


def _group(row: tuple[Any, ...]) -> ProblemGroup:
    return ProblemGroup(*row[:6], difficulty=row[6:])


def _author(row: tuple[Any, ...]) -> Author:
    sampler, policy, problems, rollouts, truncated, unjudged, *outcomes = row
    return Author(sampler, policy, problems, rollouts, truncated, dict(zip(OUTCOMES, outcomes, strict=True)), unjudged)


def _difficulties(con: duckdb.DuckDBPyConnection) -> dict[str, tuple[tuple[float, float, int], ...]]:
    """Family -> (lowest, highest, count) of equally wide bins, one a value where there are few; no family of one value."""
    query = f"""
    WITH ends AS (
        SELECT family, min(difficulty) AS low, max(difficulty) AS high, count(DISTINCT difficulty) AS values
        FROM problems GROUP BY family HAVING values > 1
    )
    SELECT family, min(difficulty) AS low, max(difficulty), count(*)
    FROM problems JOIN ends USING (family)
    GROUP BY family, CASE WHEN values <= {_DIFFICULTY_BINS} THEN difficulty
        ELSE least(floor((difficulty - ends.low) / (ends.high - ends.low) * {_DIFFICULTY_BINS}), {_DIFFICULTY_BINS} - 1) END
    ORDER BY family, 2
    """
    found: dict[str, tuple[tuple[float, float, int], ...]] = {}
    for family, low, high, count in con.execute(query).fetchall():
        found[family] = (*found.get(family, ()), (low, high, count))
    return found


def _verdicts(con: duckdb.DuckDBPyConnection) -> dict[str, dict[str, int]]:
    """Verifier -> outcome -> rows of the table of verdicts."""
    found: dict[str, dict[str, int]] = {}
    query = "SELECT verifier, outcome, count(*) FROM verdicts GROUP BY verifier, outcome ORDER BY verifier, outcome"
    for verifier, outcome, count in con.execute(query).fetchall():
        found.setdefault(verifier, {})[outcome] = count
    return found


def _lengths(con: duckdb.DuckDBPyConnection, unit: str) -> list[Lengths]:
    """One Lengths a sampler, where `unit` is recorded."""
    where = "WHERE tokens > 0" if unit == "tokens" else ""
    shares = ", ".join(map(str, QUANTILES))
    rows = con.execute(
        f"SELECT sampler, count(*), quantile_disc({unit}, [{shares}]) FROM seen {where} GROUP BY sampler"
    ).fetchall()
    bars = con.execute(
        f"""SELECT sampler, CASE WHEN {unit} > 0 THEN floor(log2({unit}))::INT ELSE -1 END AS power, count(*)
            FROM seen {where} GROUP BY sampler, power ORDER BY sampler, power"""
    ).fetchall()
    histograms: dict[str, list[tuple[int, int, int]]] = {}
    for sampler, power, count in bars:
        bin_ = (2**power, 2 ** (power + 1), count) if power >= 0 else (0, 1, count)
        histograms.setdefault(sampler, []).append(bin_)
    return [Lengths(name, unit, n, tuple(values), tuple(histograms[name])) for name, n, values in rows]


def _findings(con: duckdb.DuckDBPyConnection) -> list[Finding]:
    """What to know before training; those that count nothing are not among them."""
    found: list[Finding] = []
    for name, share, query in _FINDINGS:
        (count, of), *_ = con.execute(query).fetchall()
        if count:
            found.append(Finding(name, count, of, share is not None and count >= share * of))
    return found


_SOLVED = "(SELECT problem, min(rate) AS low, max(rate) AS high FROM rates GROUP BY problem)"
_TRAINERS = ", ".join(f"'{name}'" for name in (*TEACHERS, "dpo", "rl", "rl:lengths"))
_FINDINGS = (  # (name, from which share on it is a warning, query for count and of)
    ("no_verdict", 0, "SELECT count(*) FILTER (outcome IS NULL), count(*) FROM seen"),
    ("unverifiable_rollouts", 0, "SELECT count(*) FILTER (outcome = 'unverifiable'), count(*) FROM seen"),
    ("truncated_rollouts", 0.02, "SELECT count(*) FILTER (is_truncated), count(*) FROM seen"),
    ("empty_texts", 0, "SELECT count(*) FILTER (characters = 0), count(*) FROM seen"),
    ("duplicate_texts", 0.05, "SELECT count(*) - count(DISTINCT text_key), count(*) FROM seen"),
    (
        "on_heldout_problems",
        0,
        f"""SELECT count(*), (SELECT count(*) FROM seen) FROM seen
            SEMI JOIN (SELECT hash(id) AS id FROM problems WHERE split = 'heldout') p ON p.id = seen.problem
            WHERE sampler IN ({_TRAINERS})""",
    ),
    (
        "without_problem",
        0,
        """SELECT count(*), (SELECT count(*) FROM seen) FROM seen
           ANTI JOIN (SELECT hash(id) AS id FROM problems) p ON p.id = seen.problem""",
    ),
    (
        "without_rollout",
        0,
        """SELECT count(*), (SELECT count(*) FROM verdicts) FROM verdicts v
           ANTI JOIN (SELECT hash(id) AS id FROM rollouts) r ON r.id = hash(v.rollout_id)""",
    ),
    ("unsolved_problems", 0, f"SELECT count(*) FILTER (high = 0), count(*) FROM {_SOLVED}"),
    ("disagreeing_problems", None, f"SELECT count(*) FILTER (low < 1 AND high > 0), count(*) FROM {_SOLVED}"),
    (
        "unsampled_problems",
        None,
        """SELECT count(*), (SELECT count(*) FROM problems) FROM problems p
           ANTI JOIN (SELECT DISTINCT problem FROM seen) s ON s.problem = hash(p.id)""",
    ),
)
