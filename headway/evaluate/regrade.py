"""Every stored rollout judged again by this build's verifier: new verdicts beside the old ones, and what changed.

    rollouts --judge--> verdicts of this build --add those that are missing--> store
                              |
    stored verdicts ----------+--> Change(before, after) where they disagree, and a count of each (before, after)

Rollouts come in the order of the table, some thousands at a time, so that ten million need no more memory than ten thousand and a
killed call goes on: what it has written is not judged again unless asked. Rollouts that were asked for a program are left out:
their verdicts are another verifier's (`verify.program`). It does not know why a verdict differs.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from headway.errors import StoreError
from headway.store.schema import PLACE
from headway.store.store import Store
from headway.types import Outcome, Verdict
from headway.verify.judge import VERIFIER, Verifier, verdict_of

CHUNK = 4096  # rollouts judged and stored together

Tell = Callable[[int, int], None]  # (rollouts judged, rollouts in all)


@dataclass(frozen=True, slots=True)
class Change:
    """One rollout on whose outcome two verifiers disagree. `before` is the stored verdict, `after` this build's.

    Example: ``Change(reference="1/2", before=Verdict("c1…", "rules@1", WRONG …), after=Verdict("c1…", "rules@2", CORRECT …))``
    """

    reference: str
    before: Verdict
    after: Verdict


@dataclass(slots=True)
class Regraded:
    """What came of it: how many rollouts were judged and how many verdicts were new, and the comparison.

    `outcomes[before, after]` counts pairs of outcomes, agreements too; rollouts without an earlier verdict are in none.
    `examples` is a random sample of the changes, `num_changes` how many there are.
    """

    judged: int = 0
    added: int = 0
    num_changes: int = 0
    outcomes: Counter[tuple[Outcome, Outcome]] = field(default_factory=Counter[tuple[Outcome, Outcome]])
    examples: list[Change] = field(default_factory=list[Change])


@dataclass(frozen=True, slots=True)
class _Row:
    place: int
    id: str
    reference: str
    metadata: str
    text: str
    has_verdict: bool
    before: Verdict | None


def regrade(
    store: Store, verifier: Verifier, *, everything: bool, against: str = "", sample: int = 0, seed: int = 0, tell: Tell
) -> Regraded:
    """Judge the rollouts that lack a verdict of this build (`everything`: all) and add what is missing.

    Each is compared with its stored verdict by the verifier `against`, or else with its newest one by another verifier than this
    build's, or else with this build's own. StoreError where `against` has judged nothing.
    """
    if against and not store.sql("SELECT 1 FROM verdicts WHERE verifier = ? LIMIT 1", [against]).num_rows:
        names = store.sql("SELECT DISTINCT verifier FROM verdicts ORDER BY 1").column(0).to_pylist()
        raise StoreError(f"the table has no verdict by {against!r}; it has some by {', '.join(names) or 'nobody'}")
    found, chance = Regraded(), random.Random(seed)
    total = _count(store, everything)
    for rows in _chunks(store, everything, against):
        judged = verifier.judge_all([(row.reference, row.text) for row in rows], [row.metadata for row in rows])
        verdicts = [verdict_of(row.id, VERIFIER, row.reference, one) for row, one in zip(rows, judged, strict=True)]
        new = [verdict for row, verdict in zip(rows, verdicts, strict=True) if not row.has_verdict]
        if new:
            found.added += store.add_verdicts(new)
        for row, after in zip(rows, verdicts, strict=True):
            if row.before is not None:
                _compare(found, Change(row.reference, row.before, after), sample, chance)
        found.judged += len(rows)
        tell(found.judged, total)
    return found


def _compare(found: Regraded, change: Change, sample: int, chance: random.Random) -> None:
    """Count a pair of verdicts; changes are sampled evenly as they come (reservoir)."""
    found.outcomes[change.before.outcome, change.after.outcome] += 1
    if change.before.outcome is change.after.outcome:
        return
    found.num_changes += 1
    if len(found.examples) < sample:
        found.examples.append(change)
    elif (place := chance.randrange(found.num_changes)) < sample:
        found.examples[place] = change


_MINE = f"SELECT DISTINCT rollout_id FROM verdicts WHERE verifier = '{VERIFIER}'"
_WANTED = f"FROM rollouts r LEFT JOIN ({_MINE}) mine ON mine.rollout_id = r.id WHERE ($everything OR mine.rollout_id IS NULL)"
_WANTED += " AND NOT suffix(r.sampler, ':program')"
_ROWS = f"""
    WITH part AS (
        SELECT r.{PLACE} AS place, r.id AS id, r.problem_id AS problem_id, r.text AS text,
               mine.rollout_id IS NOT NULL AS has_verdict
        {_WANTED} AND r.{PLACE} > $after ORDER BY r.{PLACE} LIMIT {CHUNK}
    ), earlier AS (
        SELECT v.* FROM verdicts v SEMI JOIN part ON v.rollout_id = part.id
        WHERE $against = '' OR v.verifier = $against
        QUALIFY row_number() OVER (
            PARTITION BY v.rollout_id
            ORDER BY v.verifier = '{VERIFIER}', TRY_CAST(regexp_extract(v.verifier, '@([0-9]+)', 1) AS INTEGER) DESC NULLS LAST,
                     v.verifier DESC, v.{PLACE}) = 1
    )
    SELECT part.place, part.id, p.reference, p.metadata, part.text, part.has_verdict, e.verifier, e.outcome, e.reason, e.extracted
    FROM part JOIN problems p ON p.id = part.problem_id LEFT JOIN earlier e ON e.rollout_id = part.id
    ORDER BY part.place
"""


def _count(store: Store, everything: bool) -> int:
    with store.connect() as con:
        return con.execute(f"SELECT count(*) {_WANTED}", {"everything": everything}).fetchall()[0][0]


def _chunks(store: Store, everything: bool, against: str) -> Iterator[list[_Row]]:
    """The rollouts to be judged, with what the table says of them, in its order."""
    last = -1
    while True:
        with store.connect() as con:  # anew each time: the table has grown meanwhile
            rows = con.execute(_ROWS, {"everything": everything, "against": against, "after": last}).fetchall()
        if not rows:
            return
        yield [
            _Row(
                place,
                key,
                reference,
                metadata,
                text,
                has_verdict,
                Verdict(key, verifier, Outcome(outcome), reason, extracted) if verifier else None,
            )
            for place, key, reference, metadata, text, has_verdict, verifier, outcome, reason, extracted in rows
        ]
        last = rows[-1][0]
