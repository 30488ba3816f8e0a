"""Which verdict of a rollout counts, for one verifier and for several that are named together.

    rules@1                      its first verdict
    rules@1+judge:M@1            its first verdict; but where a later name has a CORRECT one, that

So a second opinion can turn what the first verifier rejects, or cannot verify, into CORRECT, and nothing else; a rollout that it
was not asked about keeps the first verifier's verdict. Nothing is written for it: more opinions count as soon as they are there.
Queries take the name as their parameter `$verifier`. This file does not know who judges.
"""

from __future__ import annotations

from collections.abc import Sequence

from headway.errors import StoreError
from headway.store.store import Store

JOIN = "+"
_FIRST = f"split_part($verifier, '{JOIN}', 1)"
_LAST_PLACE = 2**62

# Two pieces of SQL over `verdicts`: the rows that can count, and the order in which the least one does.
COUNTS = f"(verifier = {_FIRST} OR (outcome = 'correct' AND list_contains(string_split($verifier, '{JOIN}'), verifier)))"
PLACE_FIRST = f"(place - CASE WHEN verifier = {_FIRST} THEN 0 ELSE {_LAST_PLACE} END)"


def combined(names: Sequence[str]) -> str:
    """The name under which queries take several verifiers together, the first one first."""
    return JOIN.join(names)


def check_verifier(store: Store, verifier: str) -> None:
    """StoreError where a verifier named in `verifier` has judged nothing: a name that was mistyped, or a judge not asked yet."""
    known = set(store.sql("SELECT DISTINCT verifier FROM verdicts").column(0).to_pylist())
    for name in verifier.split(JOIN):
        if name not in known:
            some = ", ".join(sorted(known)) or "nobody"
            raise StoreError(
                f"verifier = {verifier!r}: the table has no verdict by {name!r}; it has some by {some}; `headway judge` adds some"
            )
