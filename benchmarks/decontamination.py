"""What decontamination finds and what it removes wrongly, by class: rewritten, renumbered and look-alike questions of real
evaluation sets.

    python benchmarks/decontamination.py DATA [--part tuning|heldout] [--per-class 200] [--seed 0] [--failures 0] [--speed 20000]
    python benchmarks/decontamination.py DATA --near 100000

DATA is a folder with eval/gsm8k_test.jsonl, eval/math500.jsonl, eval/aime24.jsonl, eval/aime25.jsonl, eval/amc23.jsonl,
eval/svamp.json and train/gsm8k_train.jsonl as their authors publish them. One JSON line a class (found or removed of how many)
and a total for each kind:

    planted      an evaluation question rewritten by one to four operations of `paraphrases.KEEPING`; a class has this one
                 for certain; "by a script": of `scripted.SCRIPTED`
    look-alike   one operation of `paraphrases.CHANGING`; "by a script": of `scripted.OTHERS`
    hand         tests/cases/decontamination.jsonl: rewritten one by one; look-alikes by changed numbers, operators, questions.
                 Batch 1 is by the author of the comparison, batch 2 was written before the comparison was read, batches 3
                 to 9 before they were measured; of 2 (in part) and 9 only shares were seen. Batches 10 to 12,
                 by style: rewritten by a language model that saw only the question; look-alikes by it with other numbers;
                 of 12 and half of 10 only shares were seen
    natural      GSM8K's training questions against all evaluation sets, and each evaluation set against itself, without equal
                 references

Every question is compared with all evaluation questions, without its reference (the harder case) except in "with references".
Half of the questions, by a hash, are for tuning; of the other half only the shares by class were seen.
"""

import argparse
import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from paraphrases import CHANGING, KEEPING, Rewrite
from scripted import OTHERS, SCRIPTED

from headway.config import SourceConfig
from headway.problems.clean import normalise
from headway.problems.likeness.near import deduplicate_near
from headway.problems.likeness.overlap import SHARE, HeldoutIndex
from headway.problems.load import load
from headway.types import Problem, Split, content_id

CASES = Path(__file__).parents[1] / "tests" / "cases" / "decontamination.jsonl"
Planted = tuple[str, Problem, str]  # (class, the original, the rewritten text)


def part_of(problem: Problem) -> str:
    return "tuning" if int(problem.id[-1], 16) % 2 else "heldout"


def planted(problems: list[Problem], rewrites: dict[str, Rewrite], per_class: int, seed: int) -> Iterator[Planted]:
    """Rewritten questions: for each operation `per_class` with it and up to three others."""
    for name, first in rewrites.items():
        chance = random.Random(f"{seed}/{name}")
        made = 0
        for problem in sorted(problems, key=lambda p: content_id(seed, name, p.id)):
            if made == per_class:
                break
            if first(problem.question, chance) is None:
                continue
            others = chance.sample([other for other in rewrites if other != name], chance.randrange(4))
            text = problem.question
            for other in (other for other in rewrites if other in others or other == name):
                text = rewrites[other](text, chance) or text
            made += 1
            yield name, problem, text


def look_alikes(problems: list[Problem], changes: dict[str, Rewrite], per_class: int, seed: int) -> Iterator[Planted]:
    """Changed questions: `per_class` of each kind of change."""
    for name, change in changes.items():
        chance = random.Random(f"{seed}/{name}")
        made = 0
        for problem in sorted(problems, key=lambda p: content_id(seed, name, p.id)):
            text = change(problem.question, chance) if made < per_class else None
            if text is not None:
                made += 1
                yield name, problem, text


def hand(data: Path, part: str) -> Iterator[tuple[dict[str, Any], Problem, str]]:
    """The cases of a part written by hand: row, original, and the text. Evaluation questions are read from `data`."""
    files: dict[str, list[Problem]] = {}
    for row in map(json.loads, CASES.read_text(encoding="utf-8").splitlines()):
        file, number = row["source"].split(":")
        if row["part"].rstrip("234") != part:
            continue
        if not row["original"] and file not in files:
            files[file] = load(SourceConfig(data=str(data / "eval" / file), split=Split.HELDOUT))
        question = row["original"] or files[file][int(number)].question
        text = row["variant"] or question
        for old, new in row["edits"]:
            text = text.replace(old, new, 1)
        yield row, Problem.make(file, file, question, "", Split.HELDOUT), text


class Count:
    """Found of how many, by class, printed as JSON lines."""

    def __init__(self, kind: str, wanted: bool, failures: int):
        self.kind, self.wanted, self.failures = kind, wanted, failures
        self.all: Counter[str] = Counter()
        self.hit: Counter[str] = Counter()

    def add(self, name: str, removed: bool, original: str, text: str) -> None:
        self.all[name] += 1
        self.hit[name] += removed
        if removed != self.wanted and self.failures > 0:
            self.failures -= 1
            print(f"--- {self.kind}, {name}:\n{original}\n-> {text}", file=sys.stderr)

    def show(self) -> None:
        word = "found" if self.wanted else "removed"
        for name in [*self.all, "total"] if len(self.all) > 1 else self.all:
            of, hit = (self.all[name], self.hit[name]) if name != "total" else (self.all.total(), self.hit.total())
            print(json.dumps({"kind": self.kind, "class": name, "of": of, word: hit, "share": round(hit / max(1, of), 4)}))


def natural(data: Path, sets: list[list[Problem]], failures: int) -> None:
    """Different problems that share a template: none of them should be removed."""
    everything = [problem for one in sets for problem in one]
    train = load(SourceConfig(data=str(data / "train" / "gsm8k_train.jsonl")))
    for name, blind in (("GSM8K train", True), ("GSM8K train, with references", False)):
        count = Count("natural", False, failures)
        index = index_of(everything)
        for problem in train:
            asked = replace(problem, reference="") if blind else problem
            removal = index.find(asked, normalise(asked.question))
            count.add(name, removal is not None, problem.question, removal.heldout_question if removal else "")
        count.show()
    for one in sets:
        count = Count("natural", False, failures)
        index = index_of(one)
        for problem in one:
            others = [
                found
                for found in index.find_all(replace(problem, reference=""), normalise(problem.question))
                if found.heldout_id != problem.id
            ]
            reference = {p.id: p.reference for p in one}
            bad = [found for found in others if reference[found.heldout_id] != problem.reference]
            count.add(f"{problem.source} against itself", bool(bad), problem.question, bad[0].heldout_question if bad else "")
        count.show()


def index_of(problems: list[Problem]) -> HeldoutIndex:
    return HeldoutIndex(problems, [normalise(problem.question) for problem in problems], SHARE, ())


def speed(train: list[Problem], heldout: list[Problem], size: int) -> None:
    """Questions a second on one core: `size` training questions with shifted numbers against 20,000 held-out ones."""
    chance = random.Random(0)
    shift = CHANGING["one number"]
    many = [replace(p, id=str(i), question=shift(p.question, chance) or p.question) for i, p in enumerate((train * 9)[:size])]
    held = [replace(p, id=f"h{i}", question=(shift(p.question, chance) or p.question) if i >= len(heldout) else p.question)
            for i, p in enumerate((heldout * 8)[:20_000])]  # fmt: skip
    start = time.perf_counter()
    index = index_of(held)
    built = time.perf_counter() - start
    start = time.perf_counter()
    hits = sum(index.find(problem, normalise(problem.question)) is not None for problem in many)
    seconds = time.perf_counter() - start
    print(
        json.dumps(
            {
                "kind": "speed",
                "heldout": len(held),
                "index_s": round(built, 1),
                "questions": size,
                "removed": hits,
                "per_second": round(size / seconds),
                "hours_for_1.6M": round(1.6e6 * seconds / size / 3600, 2),
            }
        )
    )


def near(train: list[Problem], size: int) -> None:
    """Time and memory of near de-duplication: training questions with numbers drawn anew, every tenth nearly a copy."""
    chance = random.Random(0)
    shift, copy = CHANGING["one number"], SCRIPTED["other words"]
    many: list[Problem] = []
    for i in range(size):
        again = many[-1].question if i % 10 == 9 else None
        question = train[i % len(train)].question
        text = (copy(again, chance) or again) if again else (shift(question, chance) or question)
        many.append(Problem.make("web", "web", text + ("" if again else f" (case {i})"), str(i), Split.TRAIN))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    kept, funnel = deduplicate_near(many)
    seconds = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    row = {"kind": "near", "questions": size, "kept": len(kept), "dropped": funnel.dropped, "seconds": round(seconds, 1)}
    print(json.dumps(row | {"grown_mb": round(grown)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--part", choices=("tuning", "heldout"), default="heldout")
    parser.add_argument("--per-class", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--failures", type=int, default=0, help="print so many failures of each kind to standard error")
    parser.add_argument("--speed", type=int, default=0, help="time so many questions")
    parser.add_argument("--near", type=int, default=0, help="near de-duplication of so many questions alone")
    given = parser.parse_args()
    if given.near:
        near(load(SourceConfig(data=str(given.data / "train" / "gsm8k_train.jsonl"))), given.near)
        return
    files = sorted((given.data / "eval").iterdir())
    sets = [load(SourceConfig(data=str(file), split=Split.HELDOUT)) for file in files]
    everything = [problem for one in sets for problem in one]
    chosen = [problem for problem in everything if part_of(problem) == given.part]
    written = [*hand(given.data, given.part)]
    known = {problem.question for problem in everything}
    index = index_of(everything + [problem for _, problem, _ in written if problem.question not in known])

    def removed(text: str) -> bool:
        return index.find(Problem.make("web", "web", text, "", Split.TRAIN), normalise(text)) is not None

    for kind, wanted, rows in (
        ("planted", True, planted(chosen, KEEPING, given.per_class, given.seed)),
        ("planted by a script", True, planted(chosen, SCRIPTED, given.per_class, given.seed)),
        ("look-alike", False, look_alikes(chosen, CHANGING, given.per_class, given.seed)),
        ("look-alike by a script", False, look_alikes(chosen, OTHERS, given.per_class, given.seed)),
    ):
        count = Count(kind, wanted, given.failures)
        for name, problem, text in rows:
            count.add(name, removed(text), problem.question, text)
        count.show()
    for batch in sorted({row["batch"] for row, _, _ in written}):
        for keep in (False, True):
            kind = f"hand, {'look-alike' if keep else 'rewritten'}, batch {batch}"
            count = Count(kind, not keep, given.failures)
            for row, problem, text in written:
                if (row["batch"], row["keep"]) == (batch, keep):
                    count.add(row.get("style", row["kind"]), removed(text), problem.question, text)
            count.show()
    natural(given.data, sets, given.failures)
    if given.speed:
        speed(load(SourceConfig(data=str(given.data / "train" / "gsm8k_train.jsonl"))), everything, given.speed)


if __name__ == "__main__":
    main()
