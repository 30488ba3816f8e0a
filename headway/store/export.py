"""A table, or what a run selected from it, as a file in the columns that TRL documents: JSONL or Parquet.

    kind      TRL's type           columns                           rows
    sft       prompt-completion    prompt, completion                correct, whole training rollouts (of a run: its selection)
    dpo       preference           prompt, chosen, rejected          a pair of each problem that has one (of a run: its selection)
    unpaired  unpaired preference  prompt, completion, label (bool)  whole training rollouts; label: is it correct
    prompts   prompt-only          prompt, solution                  training problems; `solution`, the reference, is for rewards
    rollouts  -                    everything but token ids          every rollout with its verdict
    problems  -                    the record's own                  every problem; reads back as it was

With `is_plain` a file holds TRL's columns alone, else their provenance too (ids, source, policy, outcome, ...). Rows come in the
order of the table, some megabytes in memory at once; a pair's texts meet in DuckDB, which spills to disk. This file does not know
how a prompt is worded (`Form` does) nor where the file lies.
"""

# pyright: basic
# (the types of duckdb and pyarrow are partial)

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet

from headway.durable import write_file_atomic
from headway.errors import ConfigError, StoreError
from headway.store.binned import TRAINABLE, VERIFIER
from headway.store.combined import COUNTS, PLACE_FIRST
from headway.store.queries import dpo_pairs
from headway.store.store import Store
from headway.types import Funnel, Split

KINDS = ("sft", "midtrain", "dpo", "unpaired", "prompts", "rollouts", "problems")
SPLIT_KINDS = ("prompts", "rollouts", "problems")
_AT_ONCE = 48_000_000  # characters of texts in memory at once
_ROWS = 20_000

_TURNS = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
_PLAIN = {
    "sft": ("prompt", "completion"),
    "midtrain": ("prompt", "completion"),
    "dpo": ("prompt", "chosen", "rejected"),
    "unpaired": ("prompt", "completion", "label"),
    "prompts": ("prompt", "solution"),
}
_PROBLEM = ("problem_id", "source", "family", "split", "difficulty")
_ROLLOUT = (
    "rollout_id",
    "sampler",
    "policy",
    "step",
    "index",
    "stop_reason",
    "num_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
)
_VERDICT = ("verifier", "outcome", "reason", "extracted")
_ASKED = ("question", "reference")
_MORE = {
    "sft": (*_ASKED, *_PROBLEM, *_ROLLOUT),
    "midtrain": (*_ASKED, *_PROBLEM, *_ROLLOUT),
    "dpo": (*_ASKED, *_PROBLEM, "chosen_id", "rejected_id", "chosen_by", "rejected_by"),
    "unpaired": (*_ASKED, *_PROBLEM, *_ROLLOUT, *_VERDICT),
    "prompts": _PROBLEM,
    "rollouts": ("prompt", "completion", *_ASKED, *_PROBLEM, *_ROLLOUT, *_VERDICT),
    "problems": ("question", "reference", "solution", "metadata", *_PROBLEM),
}
_TYPES = {
    "label": pa.bool_(),
    "difficulty": pa.float64(),
    "temperature": pa.float64(),
    "top_p": pa.float64(),
    "min_p": pa.float64(),
    **dict.fromkeys(("step", "index", "num_tokens", "top_k"), pa.int64()),
}


@dataclass(frozen=True, slots=True)
class Form:
    """How a question and a completion become cells.

    Example: ``Form(ask=lambda question: question, is_conversational=True)``

    `ask` words the prompt, `stop` ends a completion (where a chat template is applied), `refuses` says of a text that it
    cannot be written so.
    """

    ask: Callable[[str], str]
    is_conversational: bool = False
    stop: str = ""
    refuses: Callable[[str], bool] = field(default=lambda text: False)

    def cell(self, role: str, text: str) -> Any:
        """A prompt ("user") or a completion ("assistant") as it stands in its column."""
        worded = self.ask(text) if role == "user" else text + self.stop
        return [{"role": role, "content": worded}] if self.is_conversational else worded


def export(
    store: Store,
    kind: str,
    out: Path,
    form: Form,
    *,
    is_plain: bool = True,
    ids: Sequence[str] | None = None,
    split: Split | None = None,
    verifier: str = VERIFIER,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Funnel:
    """Write the rows of `kind` to `out` (*.jsonl or *.parquet), whole or not at all. Returns the funnel.

    `ids` is a run's frozen selection: of rollouts, of "chosen/rejected", or of problems; `store` is then open at its versions.
    `split` leaves one split of rollouts, prompts or problems. ConfigError for a kind that TRL has no type for where `is_plain`,
    or another suffix; StoreError, with the funnel, where nothing is left.
    """
    if is_plain and kind not in _PLAIN:
        instead = "prompts" if kind == "problems" else "unpaired"
        raise ConfigError(f"TRL has no type for {kind}: export {instead}, or choose the format jsonl or parquet")
    if out.suffix not in (".jsonl", ".parquet"):
        raise ConfigError(f"--out {out}: the file to write is named *.jsonl or *.parquet")
    if split is not None and kind not in SPLIT_KINDS:
        raise ConfigError(f"{kind} are of the training split: a split is chosen for {', '.join(SPLIT_KINDS)}")
    columns = (*(_PLAIN.get(kind, ())), *(() if is_plain else _MORE[kind]))
    schema = pa.schema([(name, _type(name, kind, form)) for name in columns])
    frozen = store.at(store.versions())
    with frozen.connect() as con, write_file_atomic(out) as temporary:
        try:
            dropped = _choose(con, frozen, kind, ids, split, verifier)
            total = con.execute("SELECT count(*) FROM chosen").fetchall()[0][0]
            kept = 0
            with _Writer(temporary, out.suffix, schema) as writer:
                for rows in _rows(con, kind, verifier):
                    cells = [_cells(row, form) for row in rows if not _is_refused(row, form)]
                    dropped["holds a special token's name"] += len(rows) - len(cells)
                    writer.write([{name: row[name] for name in columns} for row in cells])
                    kept += len(cells)
                    tell(kept, total)
        except duckdb.Error as error:
            raise StoreError(f"cannot read {store.path}: {str(error).splitlines()[0]}") from None
        funnel = Funnel(kind, kept + dropped.total(), kept, {reason: n for reason, n in sorted(dropped.items()) if n})
        if not kept:
            raise StoreError(f"there is nothing to export: {funnel}")
        return funnel


def _type(name: str, kind: str, form: Form) -> pa.DataType:
    if name in ("prompt", "completion", "chosen", "rejected"):
        return _TURNS if form.is_conversational else pa.string()
    return _TYPES.get(name, pa.string())


# Rollouts in question, each with its bin (NULL: it is exported) and the length of its text.
_CHOSEN = """
CREATE TEMP TABLE chosen AS
WITH first AS (
    SELECT rollout_id, arg_min({'outcome': outcome, 'reason': reason, 'extracted': extracted}, {first}) AS said
    FROM verdicts WHERE {counts} GROUP BY rollout_id
), seen AS (
    SELECT r.place, r.problem_id, first.said, r.characters AS size, r.text_key, r.stop_reason, p.split
    FROM rollouts r JOIN problems p ON p.id = r.problem_id LEFT JOIN first ON first.rollout_id = r.id
    WHERE {where}
)
SELECT place, size, said, {bin} AS bin FROM seen
"""
_CORRECT = """CASE WHEN said IS NULL THEN 'no verdict' WHEN said.outcome <> 'correct' THEN replace(said.outcome, '_', ' ')
    WHEN stop_reason = 'length' THEN 'truncated'
    WHEN row_number() OVER (PARTITION BY problem_id, text_key, said.outcome = 'correct' AND stop_reason <> 'length'
        ORDER BY place) > 1 THEN 'duplicate text' END"""
_LABELLED = """CASE WHEN said IS NULL THEN 'no verdict' WHEN said.outcome = 'unverifiable' THEN 'unverifiable'
    WHEN stop_reason = 'length' THEN 'truncated'
    WHEN row_number() OVER (PARTITION BY problem_id, text_key, said.outcome <> 'unverifiable' AND stop_reason <> 'length'
        ORDER BY place) > 1 THEN 'duplicate text' END"""


def _choose(
    con: duckdb.DuckDBPyConnection, store: Store, kind: str, ids: Sequence[str] | None, split: Split | None, verifier: str
) -> Counter[str]:
    """Make the table `chosen`: what is exported. Returns what is not, by reason."""
    if kind == "dpo":
        return _choose_pairs(con, store, ids)
    if kind in ("prompts", "problems"):
        return _choose_problems(con, kind, ids, split)
    trained = f"p.{TRAINABLE} AND NOT starts_with(r.sampler, 'eval:')"
    where, bins = {"unpaired": (trained, _LABELLED), "rollouts": ("true", "NULL")}.get(kind, (trained, _CORRECT))
    given: dict[str, Any] = {"verifier": verifier}
    if ids is not None:
        where, bins, given["ids"] = "r.id IN (SELECT unnest($ids::VARCHAR[]))", "NULL", list(ids)
    if split is not None:
        where, given["split"] = f"{where} AND p.split = $split", split.value
    chosen = _CHOSEN.replace("{first}", PLACE_FIRST).replace("{counts}", COUNTS)
    con.execute(chosen.replace("{where}", where).replace("{bin}", bins), given)
    dropped = Counter(dict(con.execute("SELECT bin, count(*) FROM chosen WHERE bin IS NOT NULL GROUP BY bin").fetchall()))
    con.execute("DELETE FROM chosen WHERE bin IS NOT NULL")
    if ids is None and split is None and kind == "rollouts":
        orphans = "SELECT count(*) FROM rollouts r ANTI JOIN (SELECT id FROM problems) p ON p.id = r.problem_id"
        dropped["without their problem"] = con.execute(orphans).fetchall()[0][0]
    return _with_missing(con, dropped, ids)


def _choose_problems(con: duckdb.DuckDBPyConnection, kind: str, ids: Sequence[str] | None, split: Split | None) -> Counter[str]:
    wanted = split or (Split.TRAIN if kind == "prompts" else None)
    where, given = ("split = ?", [wanted.value]) if wanted else ("true", [])
    if ids is not None:
        where, given = "id IN (SELECT unnest(?::VARCHAR[]))", [list(ids)]
    con.execute(f"CREATE TEMP TABLE chosen AS SELECT place, length(question) + 100 AS size FROM problems WHERE {where}", given)
    return _with_missing(con, Counter(), ids)


def _choose_pairs(con: duckdb.DuckDBPyConnection, store: Store, ids: Sequence[str] | None) -> Counter[str]:
    dropped: Counter[str] = Counter()
    if ids is None:
        samplers = [row[0] for row in con.execute("SELECT DISTINCT sampler FROM rollouts ORDER BY 1").fetchall()]
        samplers = [sampler for sampler in samplers if not sampler.startswith("eval:")]
        selection = dpo_pairs(store, samplers=samplers, pairs_per_problem=1, seed=0)
        ids, dropped = selection.ids, Counter(selection.funnel.dropped)
    con.execute(
        """CREATE TEMP TABLE chosen AS
           SELECT ordinality AS place, split_part(pair, '/', 1) AS chosen_id, split_part(pair, '/', 2) AS rejected_id
           FROM (SELECT unnest($ids::VARCHAR[]) AS pair, generate_subscripts($ids::VARCHAR[], 1) AS ordinality)
           SEMI JOIN (SELECT id FROM rollouts) c ON c.id = split_part(pair, '/', 1)
           SEMI JOIN (SELECT id FROM rollouts) w ON w.id = split_part(pair, '/', 2)""",
        {"ids": list(ids)},
    )
    return _with_missing(con, dropped, ids)


def _with_missing(con: duckdb.DuckDBPyConnection, dropped: Counter[str], ids: Sequence[str] | None) -> Counter[str]:
    """Ids of a selection that the table does not hold are a bin, too."""
    if ids is not None:
        dropped["not in the table"] += len(ids) - con.execute("SELECT count(*) FROM chosen").fetchall()[0][0]
    return dropped


_COMMON = """p.id AS problem_id, p.question, p.reference, p.source, p.family, p.split, p.difficulty"""
_OF_ROLLOUTS = f"""
SELECT {_COMMON}, r.id AS rollout_id, r.text AS completion, r.sampler, r.policy, r.step, r."index", r.stop_reason, r.num_tokens,
       r.temperature, r.top_p, r.top_k, r.min_p, $verifier AS verifier, coalesce(c.said.outcome, '') AS outcome,
       coalesce(c.said.reason, '') AS reason, coalesce(c.said.extracted, '') AS extracted,
       coalesce(c.said.outcome = 'correct', false) AS label
FROM chosen c JOIN rollouts r ON r.place = c.place JOIN problems p ON p.id = r.problem_id
WHERE c.place BETWEEN $low AND $high AND r.place BETWEEN $low AND $high ORDER BY c.place
"""
_OF_PROBLEMS = f"""
SELECT {_COMMON}, p.metadata, p.solution FROM chosen c JOIN problems p ON p.place = c.place
WHERE c.place BETWEEN $low AND $high AND p.place BETWEEN $low AND $high ORDER BY c.place
"""
_OF_PAIRS = f"""
SELECT {_COMMON}, a.id AS chosen_id, b.id AS rejected_id, a.policy AS chosen_by, b.policy AS rejected_by, a.text AS chosen,
       b.text AS rejected
FROM chosen c JOIN rollouts a ON a.id = c.chosen_id JOIN rollouts b ON b.id = c.rejected_id JOIN problems p ON p.id = a.problem_id
ORDER BY c.place
"""
_PARTS = """
SELECT min(place), max(place) FROM (
    SELECT place, floor(sum(size + 500) OVER (ORDER BY place ROWS UNBOUNDED PRECEDING) / $at_once) AS part FROM chosen
) GROUP BY part ORDER BY part
"""


def _rows(con: duckdb.DuckDBPyConnection, kind: str, verifier: str) -> Iterator[list[dict[str, Any]]]:
    """The chosen rows in the order of the table, some megabytes at once."""
    if kind == "dpo":
        for batch in con.sql(_OF_PAIRS).to_arrow_reader(1024):
            yield batch.to_pylist()
        return
    is_of_problems = kind in ("prompts", "problems")
    for low, high in con.execute(_PARTS, {"at_once": _AT_ONCE}).fetchall():
        given: dict[str, Any] = {"low": low, "high": high}
        if is_of_problems:
            rows = con.sql(_OF_PROBLEMS, params=given)
        else:
            rows = con.sql(_OF_ROLLOUTS, params=given | {"verifier": verifier})
        for batch in rows.to_arrow_reader(_ROWS):
            found = batch.to_pylist()
            if kind == "prompts":
                found = [row | {"solution": row["reference"]} for row in found]
            yield found


def _is_refused(row: Mapping[str, Any], form: Form) -> bool:
    texts = (row[name] for name in ("question", "completion", "chosen", "rejected") if name in row)
    return any(form.refuses(text) for text in texts)


def _cells(row: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """The row with its prompt worded and its texts as cells."""
    cells = dict(row) | {"prompt": form.cell("user", row["question"])}
    for name in ("completion", "chosen", "rejected"):
        if name in row:
            cells[name] = form.cell("assistant", row[name])
    return cells


class _Writer:
    """A JSONL or a Parquet file that grows by lists of rows. A context manager."""

    def __init__(self, path: Path, suffix: str, schema: pa.Schema):
        self._schema = schema
        self._parquet = pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") if suffix == ".parquet" else None
        self._lines = None if self._parquet else path.open("w", encoding="utf-8", newline="\n")

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._parquet, self._lines):
            if file is not None:
                file.close()

    def write(self, rows: list[dict[str, Any]]) -> None:
        if self._parquet is not None:
            if rows:
                self._parquet.write_table(pa.Table.from_pylist(rows, schema=self._schema))
            return
        assert self._lines is not None
        self._lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
