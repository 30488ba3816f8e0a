"""A data set into a table: its problems, the traces that it carries as rollouts, and our own verdict of each.

    rows --read--> problems + traces --reference verifies? clean of held-out?--> store, in named batches --judge--> verdicts
                                                                                   |
    import_record: rows done, and every row and trace in exactly one bin <---------+

Killed at any moment, the same command goes on: a batch is named by its first row, what the table holds is not written again,
and the record is written last. One batch is in memory at a time. A row that names no answer takes that of the same question in
the table, if it was there before. It does not know which columns hold what (`columns`, `traces`), nor who learns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from headway.config import SourceConfig
from headway.errors import DataError
from headway.lock import FolderLock
from headway.problems.clean import decontaminate
from headway.problems.columns import Convention, NoReference, Row, RowError, read_question, read_row, recognise
from headway.problems.load import RowOrError, count_rows, numbered_rows, problem_of, stripped
from headway.problems.traces import TRACE_COLUMNS, Trace, read_traces
from headway.stages.import_record import Imported, Record
from headway.store.store import Store
from headway.types import Funnel, Outcome, Problem, Rollout, Split, StopReason
from headway.verify.judge import VERIFIER, Verifier

BATCH_ROWS = 5_000
BATCH_CHARACTERS = 32_000_000  # of traces: rows of long traces make smaller batches
SAMPLER = "import"

Tell = Callable[[str, int, int, dict[str, Any]], None]


@dataclass(slots=True)
class _Candidate:
    """A row that may enter: its question and answer, or its question alone (`problem` is None)."""

    problem: Problem | None
    question: str
    traces: list[Trace]


def import_data(
    source: SourceConfig, store: Store, verifier: Verifier, *, max_row_errors: int = 0, strip: str = "", tell: Tell
) -> Imported:
    """Bring a data set's problems and traces into the tables, and judge the traces; what was done already is not done again.

    `strip` is a text around the questions, such as an instruction, that is taken away at their beginning or end. DataError in one
    line with file and line for broken row number `max_row_errors` + 1, and with the funnel where no row is kept; RunError where
    the record is of other data or options.
    """
    folder = store.path / "imports"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder)
    try:
        record = Record(folder, source, strip, store.versions())
        if not record.imported.is_done:
            work = _Import(source, store, verifier, record, max_row_errors, strip)
            total = count_rows(source)
            for first, rows in _batches(source, record.imported.rows_done):
                work.batch(first, rows)
                done = record.imported.rows_done
                tell("import", done, max(total, done), {})
            record.imported.is_done = True
            record.save()
    finally:
        lock.release()
    if not record.imported.rows["kept"]:
        raise DataError(f"{source.data}: no row was kept ({record.imported.funnels[0]})")
    return record.imported


def _batches(source: SourceConfig, skip: int) -> Iterator[tuple[int, list[tuple[str, RowOrError]]]]:
    """(number of the first row, rows with their places): whole batches from row `skip` on, the same however often it is begun."""
    batch: list[tuple[str, RowOrError]] = []
    characters = 0
    number = -1
    for number, numbered in enumerate(numbered_rows(source, TRACE_COLUMNS)):
        if number < skip:
            continue
        batch.append(numbered)
        characters += _size(numbered[1])
        if len(batch) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield number + 1 - len(batch), batch
            batch, characters = [], 0
    if batch:
        yield number + 1 - len(batch), batch
    if number < 0:
        raise DataError(f"{source.data} holds no row")


def _size(row: RowOrError) -> int:
    """About how many characters a row holds."""
    values = row.values() if isinstance(row, Mapping) else ()
    return sum(len(value) if isinstance(value, str) else sum(map(_length, value)) for value in values if _is_long(value))


def _is_long(value: Any) -> bool:
    return isinstance(value, str | list)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str) else 200


def rollout_of(problem: Problem, trace: Trace, source: str) -> Rollout:
    """A trace as a rollout of its source; one that the set calls incomplete is truncated."""
    stop = StopReason.IMPORTED if trace.is_complete else StopReason.LENGTH
    return Rollout.make(problem.id, SAMPLER, 0, trace.index, trace.policy(source), trace.text, stop_reason=stop)


def import_traces(
    source: SourceConfig, problems: Mapping[str, Problem], store: Store, verifier: Verifier, tell: Tell
) -> tuple[int, Funnel]:
    """What a recipe's source carries beside its worked solutions, for those `problems` (by id) that the run has.

    Returns how many rollouts, and what became of the rows. Those of a source with problems were all read before, so none of them
    is broken.
    """
    finds = _Finder(source, problems)
    seen: set[str] = set()
    for first, rows in _batches(source, 0):
        made: dict[str, Rollout] = {}
        for place, row in rows:
            problem, read = finds.problem(place, row)
            for trace in read_traces(row, read)[0] if problem and not isinstance(row, RowError) else ():
                if problem and trace.author:
                    rollout = rollout_of(problem, trace, source.label)
                    if rollout.id not in seen:
                        made[rollout.id] = rollout
        name = f"import:{source.label}/{first}"
        if made and not store.has_batch("verdicts", name):
            store.add_rollouts(list(made.values()), name)
            store.add_verdicts(verifier.verdicts([(problems[rollout.problem_id], rollout) for rollout in made.values()]), name)
        seen |= made.keys()
        tell("teacher", first + len(rows), first + len(rows), {"rollouts": len(seen)})
    return len(seen), finds.funnel


class _Finder:
    """Which of a run's problems a row asks; of a source of traces alone, the one with the same question."""

    def __init__(self, source: SourceConfig, problems: Mapping[str, Problem]):
        self._source, self._problems = source, problems
        self._conventions: dict[str, Convention] = {}
        self._by_question: dict[str, Problem | None] = {}
        for problem in problems.values() if source.traces_only else ():  # a question with several answers is nobody's
            self._by_question[problem.question] = None if problem.question in self._by_question else problem
        self._bins = Counter[str]()

    @property
    def funnel(self) -> Funnel:
        """What became of the rows so far."""
        dropped = {reason: count for reason, count in self._bins.items() if reason}
        return Funnel(f"rows of {self._source.label}", sum(self._bins.values()), self._bins[""], dropped)

    def problem(self, place: str, row: RowOrError) -> tuple[Problem | None, Row | None]:
        """The problem, None where the run has it not, and the row as it was read, None where it names no answer."""
        problem, read, reason = None, None, "broken row"
        if not isinstance(row, RowError):
            try:
                problem, read = self._read(place, row)
                reason = "" if problem else "the run has no such problem"
            except NoReference:  # left out with the problems
                reason = "names no answer"
            except RowError:
                if not self._source.traces_only:
                    raise
        self._bins[reason] += 1
        return problem, read

    def _read(self, place: str, row: Mapping[str, Any]) -> tuple[Problem | None, Row | None]:
        if self._source.traces_only:
            return self._by_question.get(stripped(read_question(row), self._source.strip)), None
        file = place.rpartition(", ")[0]
        if file not in self._conventions:
            self._conventions[file] = recognise(row)
        read = read_row(row, self._conventions[file])
        return self._problems.get(problem_of(read, self._conventions[file], self._source).id), read


class _Import:
    """One data set on its way into one store."""

    def __init__(self, source: SourceConfig, store: Store, verifier: Verifier, record: Record, max_row_errors: int, strip: str):
        self._source, self._store, self._verifier, self._record = source, store, verifier, record
        self._max_row_errors, self._strip = max_row_errors, strip.strip()
        self._before = store.at(record.versions)
        self._conventions: dict[str, Convention | None] = {}  # by file
        self._verifies = lru_cache(maxsize=100_000)(verifier.verifies_itself)
        self._heldout = [] if source.split is Split.HELDOUT else store.problems(split=Split.HELDOUT)

    def batch(self, first: int, rows: list[tuple[str, RowOrError]]) -> None:
        """Read, check, write and judge one batch, then record it."""
        name, done = f"import:{self._source.label}/{first}", self._record.imported
        bins = {"rows": Counter[str](), "traces": Counter[str]()}
        done_errors = done.row_errors
        candidates = [c for place, row in rows if (c := self._read(place, row, bins)) is not None]
        kept = self._admit(candidates, bins)
        self._store.add_problems([problem for problem, _ in kept], name)
        made, claims = self._rollouts(kept, bins)
        planned = self._record.planned
        if planned.get("batch") == name and self._store.has_batch("rollouts", name):  # killed after they were written
            known, bins = planned["known"], {key: Counter(planned[key]) for key in bins}
        else:
            known = self._known(list(made))
            bins["traces"] += Counter({"in the table already": len(known), "kept": len(made) - len(known)})
            self._record.plan(name, bins, known)
        rollouts = [rollout for key, rollout in made.items() if key not in set(known)]
        self._store.add_rollouts(rollouts, name)
        outcomes = self._judge(rollouts, {problem.id: problem for problem, _ in kept}, name)
        for rollout in rollouts:
            done.outcomes[outcomes[rollout.id]] += 1
            if (claimed := claims[rollout.id]) is not None:
                done.claims[f"{'right' if claimed else 'wrong'}/{outcomes[rollout.id]}"] += 1
        done.rows += bins["rows"]
        done.traces += bins["traces"]
        done.row_errors = done_errors + bins["rows"]["broken row"]
        done.rows_done = first + len(rows)
        self._record.save()

    def _read(self, place: str, row: RowOrError, bins: dict[str, Counter[str]]) -> _Candidate | None:
        """One row; DataError with its place where it is one broken row too many."""
        try:
            if isinstance(row, RowError):
                raise row
            convention = self._convention(place, row)
            read = None
            if convention is not None:
                try:
                    read = read_row(row, convention)
                except NoReference:
                    read = None
            question = read.question if read else read_question(row)
            if read is None and not question:
                raise RowError("has neither a question nor an answer")
            if read and read.split and read.split != self._source.split:
                return self._drop("of another split", row, read, bins)
            question = self._stripped(question)
            problem = problem_of(replace(read, question=question), convention, self._source) if read and convention else None
        except RowError as error:
            bins["rows"]["broken row"] += 1
            if self._record.imported.row_errors + bins["rows"]["broken row"] > self._max_row_errors:
                raise DataError(f"{place}: {error}") from None
            return None
        traces, dropped = read_traces(row, read)
        bins["traces"] += dropped
        return _Candidate(problem, question, traces)

    def _convention(self, place: str, row: Mapping[str, Any]) -> Convention | None:
        """The file's convention, by its first row; None where its columns hold questions but no answers."""
        file = place.rpartition(", ")[0]
        if file not in self._conventions:
            try:
                self._conventions[file] = recognise(row)
            except RowError as error:
                if not read_question(row):
                    raise DataError(f"{place}: {error}") from None
                self._conventions[file] = None
        return self._conventions[file]

    def _stripped(self, question: str) -> str:
        return stripped(question, self._strip)

    def _drop(self, reason: str, row: Mapping[str, Any], read: Row | None, bins: dict[str, Counter[str]]) -> None:
        traces, dropped = read_traces(row, read)
        bins["traces"] += dropped
        self._lose(reason, len(traces), bins)

    @staticmethod
    def _lose(reason: str, num_traces: int, bins: dict[str, Counter[str]]) -> None:
        bins["rows"][reason] += 1
        if num_traces:
            bins["traces"]["of a dropped row"] += num_traces

    def _admit(self, candidates: list[_Candidate], bins: dict[str, Counter[str]]) -> list[tuple[Problem, list[Trace]]]:
        """The candidates that may enter, each with its problem; the others into their bins."""
        asked = self._by_question([c.question for c in candidates if c.problem is None])
        splits = self._splits([c.problem.id for c in candidates if c.problem is not None])
        fresh = [c.problem for c in candidates if c.problem is not None and c.problem.id not in splits]
        clean = {problem.id for problem in (decontaminate(fresh, self._heldout)[0] if self._heldout else fresh)}
        kept: list[tuple[Problem, list[Trace]]] = []
        for one in candidates:
            problem = one.problem or asked.get(one.question)
            if problem is None:
                reason = "no answer, and the table has no such question"
            elif (splits.get(problem.id, problem.split) if one.problem else problem.split) != self._source.split:
                reason = "in the table under another split"
            elif one.problem and problem.id not in splits and problem.id not in clean:
                reason = "overlaps a held-out question"
            elif one.problem and not self._verifies(problem.reference):
                reason = "reference does not verify"
            else:
                bins["rows"]["kept"] += 1
                kept.append((problem, one.traces))
                continue
            self._lose(reason, len(one.traces), bins)
        return kept

    def _splits(self, ids: list[str]) -> dict[str, str]:
        """Id -> split of those problems that the table holds, this import's own of an earlier batch among them."""
        rows = self._store.sql("SELECT id, split FROM problems WHERE id IN (SELECT unnest(?::VARCHAR[]))", [ids])
        return dict(zip(rows["id"].to_pylist(), rows["split"].to_pylist(), strict=True))

    def _by_question(self, questions: list[str]) -> dict[str, Problem]:
        """Question -> the problem that asks it in the tables as they were before; those with several answers are left out."""
        if not questions:
            return {}
        query = """SELECT min(id) AS id FROM problems WHERE question IN (SELECT unnest(?::VARCHAR[]))
                   GROUP BY question HAVING count(*) = 1"""
        ids = self._before.sql(query, [questions])["id"].to_pylist()
        return {problem.question: problem for problem in self._before.problems(ids=ids)}

    def _rollouts(
        self, kept: list[tuple[Problem, list[Trace]]], bins: dict[str, Counter[str]]
    ) -> tuple[dict[str, Rollout], dict[str, bool | None]]:
        """The batch's rollouts by id, and what the set claims of each."""
        made: dict[str, Rollout] = {}
        claims: dict[str, bool | None] = {}
        for problem, traces in kept:
            for trace in traces:
                rollout = rollout_of(problem, trace, self._source.label)
                if rollout.id in made:
                    bins["traces"]["in the table already"] += 1
                made.setdefault(rollout.id, rollout)
                claims.setdefault(rollout.id, trace.claimed)
        return made, claims

    def _known(self, ids: list[str]) -> list[str]:
        """Those of the rollouts that the table holds."""
        rows = self._store.sql("SELECT id FROM rollouts WHERE id IN (SELECT unnest(?::VARCHAR[]))", [ids])
        return rows["id"].to_pylist()

    def _judge(self, rollouts: list[Rollout], problems: dict[str, Problem], batch: str) -> dict[str, Outcome]:
        """Rollout id -> our outcome; verdicts that the table holds are read, the others made."""
        if self._store.has_batch("verdicts", batch):
            found = self._store.verdicts(VERIFIER, rollout_ids=[rollout.id for rollout in rollouts])
        else:
            found = self._verifier.verdicts([(problems[rollout.problem_id], rollout) for rollout in rollouts])
            self._store.add_verdicts(found, batch)
        return {verdict.rollout_id: verdict.outcome for verdict in found}
