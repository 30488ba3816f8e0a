"""Where the first rollouts come from: a teacher (a server, or scripted), all solutions of the data, the starting model.

All end up in the one table with verdicts; only the queries decide who learns from them. It does not know which stage will want
them.
"""

from __future__ import annotations

from typing import Any

from headway.config import Recipe
from headway.errors import ConfigError, RunError
from headway.problems.worked import SOLVERS, solve_all
from headway.ranks import first
from headway.sample import Plan
from headway.stages.imports import import_traces
from headway.stages.workspace import Workspace, frozen
from headway.store.queries import training_problems
from headway.teacher.sampling import sample_teacher
from headway.types import Problem, Rollout, StopReason
from headway.verify.judge import Verifier


def teach(work: Workspace, verifier: Verifier) -> None:
    """Append what is missing of the teacher's rollouts and verdicts. The recipe's `teacher` section is the budget."""
    recipe, run = work.recipe, work.run
    if run.done("teacher"):
        return
    record = first(lambda: _written(work, verifier))
    own = recipe.teacher
    if own.own_rollouts and own.own_problems:
        plan = Plan("teacher", 0, f"{recipe.name}/start", 1.0, 1.0, recipe.evaluate.max_tokens)
        work.sample_stored(_asked(work)[: own.own_problems], own.own_rollouts, plan, "teacher:own", "teacher")
    work.tell("teacher", 1, 1, {"rollouts": record["scripted"] + record["imported"]})
    run.finish("teacher", record)


def _asked(work: Workspace) -> list[Problem]:
    """The training problems, but for those of the base alone."""
    elementary = work.base_only()
    return [problem for problem in training_problems(work.store).rows if problem.id not in elementary]


def _written(work: Workspace, verifier: Verifier) -> dict[str, Any]:
    """Append what others wrote: the server, the scripted teacher, the data itself. How many there are of each."""
    recipe, run = work.recipe, work.run
    problems = _asked(work)
    by_id = {problem.id: problem for problem in problems}
    asked = _served(work, verifier, problems) if recipe.teacher.server else {}
    written = [] if recipe.teacher.server else _scripted(problems, recipe)
    imported = [_import(problem) for problem in problems if problem.solution and problem.source in _importing(recipe)]
    for rollouts, batch in ((written, "teacher"), (imported, "import")):
        if rollouts and not work.store.has_batch("verdicts", batch):
            work.store.add_rollouts(rollouts, batch)
            work.store.add_verdicts(verifier.verdicts([(by_id[r.problem_id], r) for r in rollouts]), batch)
    traces = 0
    for source in recipe.problems.sources:
        if source.solutions and source.data:
            count, funnel = import_traces(source, by_id, work.store, verifier, work.tell)
            traces += count
            if source.traces_only:
                run.freeze(f"traces-{source.label}", frozen(funnel, [], {}))
    record = {"scripted": len(written), "imported": len(imported) + traces}
    return record | ({"server": asked} if asked else {})


def _served(work: Workspace, verifier: Verifier, problems: list[Problem]) -> dict[str, Any]:
    """The server's whole budget, on the first problems: its funnel. Failed requests are left out, and counted there.

    Raises RunError where a cap ended it early: the same command with a higher one goes on.
    """
    recipe, own = work.recipe, work.recipe.teacher
    if own.server is None or not own.problems or not own.rollouts:
        raise ConfigError("teacher.server needs a budget: teacher.problems and teacher.rollouts above 0")
    from headway.teacher.server import ServerTeacher  # loads the client, which most runs do not need

    def say(note: str) -> None:
        work.tell("teacher", 0, 1, {"faults": note})

    teacher = ServerTeacher(own.server, recipe.seed, recipe.problems.instruction, "", say)
    folder, chosen = work.run.folder / "teacher", problems[: own.problems]
    found = sample_teacher(teacher, chosen, own.rollouts, "", work.store, folder, verifier, work.tell)
    if found.failure is not None:
        raise found.failure
    if found.stopped:
        raise RunError(f"the teacher stopped early ({found.stopped}): {found.funnel}; a higher cap goes on from there")
    return found.record


def _scripted(problems: list[Problem], recipe: Recipe) -> list[Rollout]:
    """The scripted teacher's whole budget, on the first problems of families that it knows."""
    if not recipe.teacher.problems:
        return []
    known = [problem for problem in problems if problem.family in SOLVERS]
    return solve_all(known[: recipe.teacher.problems], recipe.teacher, recipe.seed)


def _importing(recipe: Recipe) -> set[str]:
    """Names of the sources whose own solutions are wanted."""
    return {source.label for source in recipe.problems.sources if source.solutions is True}


def _import(problem: Problem) -> Rollout:
    """The data set's own worked solution as a rollout of its source."""
    return Rollout.make(problem.id, "import", 0, 0, problem.source, problem.solution, stop_reason=StopReason.IMPORTED)
