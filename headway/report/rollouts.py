"""The page's rollouts to read: the same few problems through all stages, each rollout folded under its outcome.

A small matrix (problems x stages) gives the overview and leads to each text. A text is shown as it is, except that
control characters are made visible and the middle of a very long one is left out, which is said. This file does not
know which rollouts were picked, or why: `readings` does.
"""

from __future__ import annotations

from collections.abc import Sequence

from headway.report.markup import amount, escape
from headway.report.readings import Reading
from headway.types import Outcome, StopReason

_HEAD, _TAIL = 14_000, 6_000  # characters shown of a longer text
_MARKS = {
    Outcome.CORRECT: ("correct", "✓", "correct"),
    Outcome.WRONG: ("wrong", "✗", "wrong"),
    Outcome.NO_ANSWER: ("none", "∅", "no answer"),
    Outcome.UNVERIFIABLE: ("none", "?", "could not be judged"),
}
_WHY = {
    "gained": "mostly right at the end, not at the start",
    "not solved": "mostly wrong at every stage",
    "lost": "mostly right on the way, not at the end",
    "solved throughout": "mostly right at the start and at the end",
    "added": "shown because a stage had no other right, or no other wrong, rollout here",
}


def rollout_section(shown: Sequence[Reading], stages: Sequence[str]) -> str:
    """The section: how the rollouts were picked, the matrix, and a card a problem."""
    title = '<section id="rollouts">\n<h2>Rollouts to read</h2>\n'
    if not shown:
        return f'{title}<p class="quiet">The run&#x27;s table holds no judged evaluation rollouts.</p>\n</section>'
    intro = (
        "Real samples of the evaluation, right and wrong. The problems were picked by how they fared over the "
        "stages, not by how the text reads; each shows the first sample drawn. The fraction is the share of that "
        "problem&#x27;s samples that are right."
    )
    by_problem: dict[str, list[Reading]] = {}
    for reading in shown:
        by_problem.setdefault(reading.problem_id, []).append(reading)
    cards = "".join(_problem(number, rows) for number, rows in enumerate(by_problem.values()))
    return f'{title}<p class="quiet">{intro}</p>\n{_matrix(list(by_problem.values()), stages)}\n{cards}\n</section>'


def _matrix(problems: Sequence[Sequence[Reading]], stages: Sequence[str]) -> str:
    heads = "".join(f'<th scope="col" style="text-align:center">{escape(stage)}</th>' for stage in stages)
    rows = []
    for number, readings in enumerate(problems):
        cells = []
        for stage in stages:
            links = [_link(number, place, reading) for place, reading in enumerate(readings) if reading.stage == stage]
            cells.append(f"<td>{' '.join(links)}</td>")
        words = " ".join(readings[0].question.split())
        short = words if len(words) <= 90 else words[:89] + "…"
        rows.append(f'<tr><th scope="row" class="words"><bdi>{escape(short)}</bdi></th>{"".join(cells)}</tr>')
    head = f'<thead><tr><th scope="col">problem</th>{heads}</tr></thead>'
    return f'<div class="wide"><table class="matrix">{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _link(number: int, place: int, reading: Reading) -> str:
    kind, mark, words = _MARKS[reading.outcome]
    return f'<a href="#rollout-{number}-{place}" title="{words}"><span class="mark {kind}">{mark}</span></a>'


def _problem(number: int, rows: Sequence[Reading]) -> str:
    first = rows[0]
    tags = " · ".join(filter(None, [escape(first.family), _WHY.get(first.why, ""), f"problem {escape(first.problem_id)}"]))
    opened = {0, len(rows) - 1} if number == 0 else set[int]()
    bodies = "".join(_rollout(f"rollout-{number}-{place}", reading, place in opened) for place, reading in enumerate(rows))
    return (
        f'<article class="problem"><header><p class="tag">{tags}</p><p class="question">{escape(first.question)}</p>'
        f'<p class="tag">reference answer <span class="reference">{escape(first.reference)}</span></p></header>'
        f"{bodies}</article>"
    )


def _rollout(name: str, reading: Reading, is_open: bool) -> str:
    kind, mark, words = _MARKS[reading.outcome]
    state = " open" if is_open else ""
    said = f"answered {escape(reading.extracted)}" if reading.extracted.strip() else words
    facts = [f"{reading.num_correct}/{reading.num_samples} right"]
    if reading.num_tokens:
        facts.append(f"{amount(reading.num_tokens)} tokens")
    if reading.stop_reason == StopReason.LENGTH:
        facts.append("truncated")
    if reading.outcome is not Outcome.CORRECT and reading.reason:
        facts.append(escape(reading.reason.replace("_", " ")))
    return (
        f'<details class="rollout" id="{name}"{state}><summary><span class="mark {kind}" title="{words}">{mark}</span>'
        f'<span class="stage">{escape(reading.stage)}</span><span class="said">{said}</span>'
        f'<span class="quiet">{" · ".join(facts)}</span></summary><pre>{_text(reading)}</pre></details>'
    )


def _text(reading: Reading) -> str:
    """The rollout's text, its last \\boxed{...} marked, the middle of a long one left out."""
    text = reading.text
    if len(text) > _HEAD + _TAIL:
        lost = len(text) - _HEAD - _TAIL
        note = f"\n[{lost:,} characters left out here; `headway show {reading.rollout_id}` prints them]\n"
        return f'{escape(text[:_HEAD])}<span class="cut">{escape(note)}</span>{_marked(text[-_TAIL:])}'
    return _marked(text) or '<span class="cut">(empty)</span>'


def _marked(text: str) -> str:
    start = text.rfind("\\boxed{")
    depth, end = 0, -1
    for place in range(start, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if text[place] == "}" and depth == 0:
            end = place + 1
            break
    if end < 0:
        return escape(text)
    return f"{escape(text[:start])}<mark>{escape(text[start:end])}</mark>{escape(text[end:])}"
