"""The page's section on the run's table: warnings first, then problems, authors, pass rates, lengths. `holdings` has the numbers.

Every heading leads to its entry of the glossary. Names of sources, families, samplers and policies are foreign text: escaped.
"""

from __future__ import annotations

from collections.abc import Sequence

from headway.report import charts
from headway.report.glossary import ENTRIES, anchor
from headway.report.holdings import OUTCOMES, RATE_BINS, Finding, Holdings, Lengths, octaves
from headway.report.markup import amount, escape, percent, table

_ROWS = 40  # of one table, cards of one kind; what is left out is counted
_ALWAYS = ("num_problems", "num_rollouts", "num_verdicts", "reasons", "pass_rates", "rollout_lengths")


def holdings_intro(found: Holdings | None) -> str:
    """What the section speaks of, as HTML."""
    if found is None:
        return ""
    return (
        f"{found.num_problems:,} problems, {found.num_rollouts:,} rollouts and {found.num_verdicts:,} verdicts. "
        f"A rollout counts by the first verdict of {escape(found.verifier)}."
    )


def holdings_words(found: Holdings | None) -> set[str]:
    """The names of the glossary that the section needs."""
    if found is None:
        return set()
    return {*_ALWAYS, *(finding.name for finding in found.findings), *(["labels"] if found.labels else [])}


def holdings_body(found: Holdings | None) -> str:
    """The section below its title."""
    if found is None:
        return '<p class="quiet">The run has no table.</p>'
    notes = "".join(_note(finding) for finding in found.findings)
    parts = [f'<ul class="notes">{notes}</ul>' if notes else "", _problems(found), _labels(found)]
    if found.num_rollouts:
        parts += [_authors(found), _verdicts(found), _pass_rates(found), _lengths(found)]
    return "\n".join(parts)


def _link(name: str, text: str = "") -> str:
    return f'<a href="#{anchor(name)}">{text or escape(ENTRIES[name].title)}</a>'


def _note(finding: Finding) -> str:
    mark = '<span class="worse">!</span>' if finding.is_warning else '<span class="better">·</span>'
    share = f" of {finding.of:,} ({percent(finding.count / finding.of)})" if finding.of else ""
    watch = escape(ENTRIES[finding.name].watch)
    return f'<li>{mark}<strong>{_link(finding.name)}</strong>: {finding.count:,}{share}. <span class="quiet">{watch}</span></li>'


def _more(rows: Sequence[object], shown: str) -> str:
    """What is said of rows that a table does not show."""
    left = len(rows) - _ROWS
    return f'<p class="note">{left:,} {shown} more are not shown here: headway data --json lists all</p>' if left > 0 else ""


def _problems(found: Holdings) -> str:
    heads = ["source", "split", "family", "domain", "problems", "with a solution", "difficulty"]
    body = [
        (
            group.source,
            [
                *(f'<td class="words">{escape(word)}</td>' for word in (group.split, group.family, group.domain)),
                f"<td>{group.problems:,}</td><td>{group.solutions:,}</td><td>{_difficulty(group.difficulty)}</td>",
            ],
        )
        for group in found.problems[:_ROWS]
    ]
    if not any(group.domain for group in found.problems):
        del heads[3]
        body = [(name, [*cells[:2], *cells[3:]]) for name, cells in body]
    title = f"<h3>{_link('num_problems')}</h3>"
    families = list(found.difficulties.items())
    cards = "".join(_difficulty_card(family, bins) for family, bins in families[:_ROWS])
    drawn = f'<div class="cards">{cards}</div>{_more(families, "families")}' if cards else ""
    return f"{title}{table(f'holdings words-{len(heads) - 3}', heads, body)}{_more(found.problems, 'rows')}{drawn}"


def _labels(found: Holdings) -> str:
    if not found.labels:
        return ""
    body = [
        (
            group.labeller,
            [f'<td class="words">{escape(word)}</td>' for word in (group.domain, group.difficulty)]
            + [f"<td>{group.problems:,}</td>"],
        )
        for group in found.labels[:_ROWS]
    ]
    written = table("holdings words-3", ["labeller", "domain", "difficulty", "problems"], body)
    return f"<h3>{_link('labels')}</h3>{written}{_more(found.labels, 'rows')}"


def _difficulty(ends: tuple[float, float, float]) -> str:
    low, middle, high = ends
    return amount(low) if low == high else f"{amount(low)} · {amount(middle)} · {amount(high)}"


def _difficulty_card(family: str, bins: Sequence[tuple[float, float, int]]) -> str:
    labelled = [(amount(low) if low == high else f"{amount(low)}–{amount(high)}", count) for low, high, count in bins]
    return _card(f"{family}: problems by difficulty", sum(count for _, count in labelled), labelled)


def _authors(found: Holdings) -> str:
    heads = ["sampler", "policy", "problems", "rollouts", "correct", "wrong", "no answer", "could not be judged", "no verdict"]
    body = []
    for author in found.authors[:_ROWS]:
        judged = sum(author.outcomes.values()) - author.outcomes["unverifiable"]
        share = author.outcomes["correct"] / judged if judged else None
        shade = f' class="heat" style="--share:{share:.3f}"' if share is not None else ""
        numbers = [*(author.outcomes[outcome] for outcome in OUTCOMES[1:]), author.unjudged, author.truncated]
        cells = [
            f'<td class="words">{escape(author.policy)}</td><td>{author.problems:,}</td><td>{author.rollouts:,}</td>',
            f"<td{shade}>{percent(share)}</td>",
            *(f"<td>{number:,}</td>" for number in numbers),
        ]
        body.append((author.sampler, cells))
    written = table("holdings words-2", [*heads, "truncated"], body)
    return f"<h3>{_link('num_rollouts')}</h3>{written}{_more(found.authors, 'rows')}"


def _verdicts(found: Holdings) -> str:
    heads = ["verifier", *(outcome.replace("_", " ") for outcome in OUTCOMES)]
    body = [
        (verifier, [f"<td>{counts.get(outcome, 0):,}</td>" for outcome in OUTCOMES])
        for verifier, counts in found.verdicts.items()
    ]
    written = f"<h3>{_link('num_verdicts')}</h3>{table('holdings', heads, body)}"
    if not found.reasons:
        return written
    reasons = [
        (outcome.replace("_", " "), [f'<td class="words">{escape(reason.replace("_", " ") or "-")}</td><td>{count:,}</td>'])
        for outcome, reason, count in found.reasons
    ]
    return f"{written}<h3>{_link('reasons')}</h3>{table('holdings words-2', ['outcome', 'reason', 'rollouts'], reasons)}"


def _pass_rates(found: Holdings) -> str:
    cards = "".join(
        _card(rates.sampler, rates.problems, list(zip(RATE_BINS, rates.bins, strict=True)), f"mean {percent(rates.mean)}")
        for rates in found.pass_rates[:_ROWS]
    )
    intro = '<p class="quiet">Problems by the share of their rollouts that are correct, in percent.</p>'
    more = _more(found.pass_rates, "samplers")
    return f'<h3>{_link("pass_rates")}</h3>{intro}<div class="cards">{cards}</div>{more}' if cards else ""


def _lengths(found: Holdings) -> str:
    """A sampler's lengths in tokens where it has them, else in characters."""
    in_tokens = {row.sampler for row in found.lengths if row.unit == "tokens"}
    shown = [row for row in found.lengths if row.unit == "tokens" or row.sampler not in in_tokens]
    order = {rates.sampler: number for number, rates in enumerate(found.authors)}
    shown.sort(key=lambda row: order[row.sampler])
    edges = {unit: octaves([row for row in shown if row.unit == unit]) for unit in {row.unit for row in shown}}
    cards = "".join(_length_card(row, edges[row.unit]) for row in shown[:_ROWS])
    more = _more(shown, "samplers")
    return f'<h3>{_link("rollout_lengths")}</h3><div class="cards">{cards}</div>{more}'


def _length_card(row: Lengths, edges: Sequence[int]) -> str:
    """A card over the bins that all samplers of its unit share, so that cards compare."""
    counts = {low: count for low, _, count in row.histogram}
    bins = [(amount(low), counts.get(low, 0)) for low in edges]
    low, _, _, middle, _, high, longest = row.quantiles
    note = f"{row.unit}: least {amount(low)}, median {amount(middle)}, 95 % {amount(high)}, most {amount(longest)}"
    return _card(row.sampler, row.rollouts, bins, note)


def _card(title: str, count: int, bins: Sequence[tuple[str, int]], note: str = "") -> str:
    said = f'<p class="quiet">{escape(note)}</p>' if note else ""
    return (
        f'<figure class="card"><h4><span>{escape(title)}</span><output>{count:,}</output></h4>'
        f"{charts.bars(bins, title)}{said}</figure>"
    )
