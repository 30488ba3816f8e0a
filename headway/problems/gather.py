"""All problems of a run: every source read, every problem once, nothing held out trained on, every reference checked.

    sources --load / generate--> problems --deduplicate--> --decontaminate--> --verify references--> admitted

A question that occurs in several splits stays in the one that must not be trained on: held-out ones clean all others, and
validation comes before training. Every step has a funnel. Held-out problems clean the others even where their own reference
does not verify.

This file does not know how a reference is verified: its caller passes `verifies`. It knows one thing about the world:
reasoning-gym's `gsm_symbolic` is built from GSM8K's test problems, so it is refused where GSM8K is held out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from headway.config import ProblemsConfig, SourceConfig
from headway.errors import ConfigError, DataError
from headway.problems.clean import decontaminate, deduplicate
from headway.problems.generate import generate
from headway.problems.likeness.overlap import Removal
from headway.problems.load import load
from headway.types import Funnel, Problem, Split, content_id

REMOVALS = 200  # kept with a run; the funnel counts all
LONGEST_SHOWN = 1000  # characters of a question in such a record
_ORDER = (Split.HELDOUT, Split.VALIDATION, Split.TRAIN)


def gather(
    config: ProblemsConfig, verifies: Callable[[str], bool], seed: int, explain: list[Removal] | None = None
) -> tuple[list[Problem], list[Funnel]]:
    """The admitted problems and the funnels of the steps (held-out sources and the others are de-duplicated apart).

    `verifies(reference)` says whether a completion that boxes this very reference would be CORRECT; it is asked once a
    reference. The problems come in an order hashed from `seed`, so that sources are mixed; which ones they are does not depend
    on it. To `explain` a Removal is added for each training or validation problem that a held-out one removed. Raises what
    `load` and `generate` raise; ConfigError for gsm_symbolic beside GSM8K; DataError, with the funnels, where nothing, nothing
    held out, or of the training sources nothing is left.
    """
    unanswered: list[str] = []
    sources = [source for source in config.sources if not source.traces_only]
    problems = {split: [p for s in sources if s.split is split for p in _read(s, unanswered)] for split in _ORDER}
    num_read = sum(map(len, problems.values()))
    _check_gsm_symbolic(config.sources, problems[Split.HELDOUT])
    heldout, heldout_duplicates = deduplicate(problems[Split.HELDOUT])
    rest, duplicates = deduplicate(problems[Split.VALIDATION] + problems[Split.TRAIN])
    templated = {source.label for source in config.sources if source.family}
    clean, overlap = decontaminate(rest, heldout, templated=templated, explain=explain)
    admitted, references = check_references(heldout + clean, verifies)
    heldout_duplicates = replace(heldout_duplicates, name="held-out duplicates")
    funnels = [heldout_duplicates, duplicates, overlap, references]
    if unanswered:
        lost = {"names no answer": len(unanswered)}
        funnels.insert(0, Funnel("answers", num_read + len(unanswered), num_read, lost))
    told = "; ".join(str(funnel) for funnel in funnels)
    if not admitted:
        raise DataError(f"no problem is left ({told})")
    if not any(problem.split is Split.HELDOUT for problem in admitted):
        raise DataError(f"no held-out problem is left to evaluate on: give a source with split = 'heldout' ({told})")
    wants_training = any(source.split is Split.TRAIN for source in sources)
    if wants_training and not any(problem.split is Split.TRAIN for problem in admitted):
        raise DataError(f"no training problem is left ({told})")
    return sorted(admitted, key=lambda problem: content_id("gather", seed, problem.id)), funnels


def check_references(problems: Sequence[Problem], verifies: Callable[[str], bool]) -> tuple[list[Problem], Funnel]:
    """The problems whose own reference verifies, in order, and the funnel. Each different reference is asked once."""
    known = {reference: verifies(reference) for reference in dict.fromkeys(p.reference for p in problems)}
    kept = [problem for problem in problems if known[problem.reference]]
    lost = len(problems) - len(kept)
    return kept, Funnel("references", len(problems), len(kept), {"reference does not verify": lost})


def removals_record(removals: Sequence[Removal], limit: int = REMOVALS) -> dict[str, Any]:
    """Removals as plain JSON: how many there are, and the first `limit` with their questions (cut at LONGEST_SHOWN)."""
    shown = [asdict(removal) for removal in removals[:limit]]
    for row in shown:
        row |= {key: row[key][:LONGEST_SHOWN] for key in ("question", "heldout_question")}
    return {"num_removals": len(removals), "removals": shown}


def _read(source: SourceConfig, unanswered: list[str]) -> list[Problem]:
    return generate(source) if source.family else load(source, unanswered=unanswered)


def _check_gsm_symbolic(sources: Sequence[SourceConfig], heldout: Sequence[Problem]) -> None:
    """Refuse to train on rewritten test problems of GSM8K where GSM8K is held out."""
    for source in sources:
        uses = f"{source.family} {json.dumps(source.settings, default=str)}"  # `composite` names families in settings
        if source.split is Split.HELDOUT or "gsm_symbolic" not in uses:
            continue
        named = any("gsm8k" in f"{s.name} {s.data}".lower() for s in sources if s.split is Split.HELDOUT)
        if named or any(problem.family == "gsm8k" for problem in heldout):
            raise ConfigError(
                f"source {source.label!r} would train on gsm_symbolic, which is made from GSM8K's test problems, and "
                "GSM8K is held out: take another family or another held-out set"
            )
