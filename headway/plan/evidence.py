"""What a recipe's data says of its documents: how many there are, how long they are, how many solutions are right.

    sources (on this machine) --some 1,500, in proportion--> problems --tokenizer--> lengths of prompts, answers, solutions

Data sets that are not here are named, and nothing is fetched. It does not know stages, memory or time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headway.config import Recipe, SourceConfig
from headway.errors import HeadwayError
from headway.model.tokenizer import Tokenizer
from headway.problems.generate import generate
from headway.problems.load import load
from headway.problems.prompt import boxed, messages, question_text
from headway.problems.worked import SOLVERS, solve
from headway.types import Problem, Split
from headway.verify import grade

SAMPLE = 1500  # problems that are read of all training sources, and of all that only the base learns from
_LEAST = 20  # of a source
_CHARACTERS = 3.5  # a token, where there is no tokenizer


@dataclass(frozen=True, slots=True)
class Solved:
    """One sampled problem: tokens of its prompt, of the bare answer, and of the solutions that would be imported or written."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    right: tuple[tuple[int, ...], ...] = ()
    wrong: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the data. Counts are those of the recipe, before duplicates and overlaps are removed.

    `taught` is how many training problems have solutions of a teacher or of their data set; `solved` and `elementary` are
    samples of the stages' problems and of those for the base alone. `notes` say what is not known, one line each.
    """

    training: int
    elementary_count: int
    heldout: int
    taught: int
    solved: tuple[Solved, ...]
    elementary: tuple[Solved, ...]
    vocabulary: int  # 0: not known
    notes: tuple[str, ...]

    def completion(self, shortest: int = 0) -> float:
        """Mean tokens of a right solution, or of the `shortest` so many of each problem; 0 where there is none."""
        lengths = [n for one in self.solved for n in sorted(map(len, one.right))[: shortest or None]]
        return sum(lengths) / len(lengths) if lengths else 0.0

    @property
    def prompt(self) -> float:
        """Mean tokens of a prompt; 0 where nothing is known."""
        lengths = [len(one.prompt) for one in self.solved]
        return sum(lengths) / len(lengths) if lengths else 0.0


def look(recipe: Recipe, folder: Path | None) -> Evidence:
    """Read a sample of every source; `folder` holds the checkpoint's tokenizer, if it is here."""
    notes: list[str] = []
    counts: dict[str, int] = {"training": 0, "elementary": 0, "heldout": 0}
    sizes: list[tuple[SourceConfig, str, int, list[Problem]]] = []
    for source in recipe.problems.sources:
        if not source.traces_only:
            kind = "elementary" if source.base_only else "heldout" if source.split is not Split.TRAIN else "training"
            problems = [] if source.family else _read(source, notes)
            count = source.count if source.family else len(problems)
            counts[kind] += count
            sizes.append((source, kind, count, problems))
    found: dict[str, list[Problem]] = {name: [] for name in counts}
    for source, kind, count, problems in sizes:
        some = min(count, max(_LEAST, round(SAMPLE * count / max(1, counts[kind]))))
        if kind != "heldout" and some:
            few = generate(source.model_copy(update={"count": some})) if source.family else problems[:: count // some][:some]
            found[kind] += few
    tokenize, vocabulary = _tokenizer(recipe, folder, found["training"] + found["elementary"], notes)
    if not counts["training"] and not counts["elementary"]:
        notes.append("no training data is on this machine: documents are taken as long as the recipe's limits allow")
    budget = recipe.teacher.problems if recipe.teacher.rollouts else 0
    imports = any(source.solutions for source in recipe.problems.sources)
    taught = counts["training"] if imports else min(budget, counts["training"])
    return Evidence(
        counts["training"],
        counts["elementary"],
        counts["heldout"],
        taught,
        tuple(_solved(recipe, found["training"], tokenize)),
        tuple(_solved(recipe, found["elementary"], tokenize, bare=True)),
        vocabulary,
        tuple(notes),
    )


def _read(source: SourceConfig, notes: list[str]) -> list[Problem]:
    """The problems of a file or folder; none, and a note, where it is not here or cannot be read."""
    if not Path(source.data).exists():
        notes.append(f"{source.label}: {source.data} is not on this machine, so nothing is known of its problems")
        return []
    try:
        return load(source, unanswered=[])
    except HeadwayError as error:
        notes.append(f"{source.label}: {error}")
        return []


Tokenize = Callable[[Sequence[str]], list[tuple[int, ...]]]
Prompts = Callable[[Sequence[Problem]], list[tuple[int, ...]]]


def _tokenizer(
    recipe: Recipe, folder: Path | None, problems: Sequence[Problem], notes: list[str]
) -> tuple[tuple[Tokenize, Prompts], int]:
    """Texts to ids and problems to prompts, and the tokenizer's size; a guess by characters where there is no tokenizer."""
    instruction = recipe.problems.instruction
    tokenizer: Tokenizer | None = None
    if recipe.model.checkpoint and folder is not None:
        tokenizer = Tokenizer.load(folder, recipe.model.gguf_file)
    elif not recipe.model.checkpoint and problems:
        texts = [f"{p.question}\n{instruction}\n{boxed(p.reference)}" for p in problems]
        tokenizer = Tokenizer.train(texts, recipe.model.vocabulary)
    if tokenizer is None:
        if problems:
            notes.append(f"the checkpoint's tokenizer is not on this machine: {_CHARACTERS} characters are taken as a token")

        def guess(texts: Sequence[str]) -> list[tuple[int, ...]]:
            return [(1,) * max(1, round(len(text) / _CHARACTERS)) for text in texts]

        return (guess, lambda found: guess([question_text(p, instruction) for p in found])), 0
    known = tokenizer

    def encode(texts: Sequence[str]) -> list[tuple[int, ...]]:
        return [tuple(ids) for ids in known.encode_batch(list(texts))]

    return (
        encode,
        lambda found: list(known.prompt_ids_batch([messages(problem, instruction) for problem in found])),
    ), known.size


def _solved(
    recipe: Recipe,
    problems: Sequence[Problem],
    tokenize: tuple[Tokenize, Prompts],
    bare: bool = False,
) -> list[Solved]:
    """The sampled problems with what a teacher writes of them, judged."""
    encode, prompts = tokenize
    if not problems:
        return []
    solved = [Solved(p, a) for p, a in zip(prompts(problems), encode([boxed(p.reference) for p in problems]), strict=True)]
    if bare:
        return solved
    importing = {source.label for source in recipe.problems.sources if source.solutions}
    for number, problem in enumerate(problems):
        texts = [problem.solution] if problem.solution and problem.source in importing else []
        if problem.family in SOLVERS and recipe.teacher.server is None:
            texts += [solve(problem, recipe.teacher, recipe.seed, i).text for i in range(recipe.teacher.rollouts)]
        outcomes = [grade(problem.reference, text).outcome.value == "correct" for text in texts]
        ids = encode(texts) if texts else []
        right = tuple(i for i, good in zip(ids, outcomes, strict=True) if good)
        wrong = tuple(i for i, good in zip(ids, outcomes, strict=True) if not good)
        solved[number] = replace(solved[number], right=right, wrong=wrong)
    return solved
