"""What a store holds, for the terminal: tables and bars of text that fit 80 columns. `holdings` has the numbers."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headway.report.glossary import ENTRIES
from headway.report.holdings import OUTCOMES, QUANTILES, Holdings, octaves
from headway.report.markup import amount, clean, percent

_ROWS = 24  # of one table; what is left out is counted (and all of it is in --json)


def render_holdings(found: Holdings, console: Console) -> None:
    """Print everything, the warnings last, where the eye ends."""
    _problems(found, console)
    if found.num_rollouts:
        _rollouts(found, console)
        _pass_rates(found, console)
        _lengths(found, console)
    _findings(found, console)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], console: Console, num_words: int = 1) -> None:
    """A table whose first `num_words` columns are words, the others numbers."""
    console.print(Text(clean(title), style="italic"), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for place, head in enumerate(heads):
        is_word = place < num_words
        least = 8 if is_word else max((len(row[place]) for row in rows), default=0)  # a number is never cut
        table.add_column(Text(head), justify="left" if is_word else "right", min_width=least, overflow="fold")
    for row in rows[:_ROWS]:
        table.add_row(*(Text(clean(cell)) for cell in row))
    console.print(table)
    if len(rows) > _ROWS:
        console.print(Text(f"and {len(rows) - _ROWS:,} rows more (--json prints all)"))
    console.print()


def _problems(found: Holdings, console: Console) -> None:
    title = f"{found.num_problems:,} problems"
    rows = [
        (
            group.source,
            group.split,
            group.family if group.family != group.source else "",
            group.domain,
            f"{group.problems:,}",
            f"{group.solutions:,}",
            _difficulty(group.difficulty),
        )
        for group in found.problems
    ]
    heads = ["source", "split", "family", "domain", "problems", "solutions", "difficulty"]
    for column in (3, 2):  # columns that say nothing
        if all(not row[column] for row in rows):
            rows = [row[:column] + row[column + 1 :] for row in rows]
            del heads[column]
    _table(title, heads, rows, console, num_words=len(heads) - 3)
    rows = [
        (family, f"{sum(count for *_, count in bins):,}", amount(bins[0][0]), amount(bins[-1][1]), sparks([n for *_, n in bins]))
        for family, bins in found.difficulties.items()
    ]
    labels = [(group.labeller, group.domain, group.difficulty, f"{group.problems:,}") for group in found.labels]
    if labels:
        _table("Problems by label", ("labeller", "domain", "difficulty", "problems"), labels, console, num_words=3)
    if rows:
        _table("Problems by difficulty, from the lowest to the highest", ("family", "problems", "from", "to", ""), rows, console)


def _difficulty(ends: tuple[float, float, float]) -> str:
    """Lowest, median and highest; nothing where a source has no scale."""
    low, middle, high = ends
    return amount(low) if low == high else f"{amount(low)} · {amount(middle)} · {amount(high)}"


def _rollouts(found: Holdings, console: Console) -> None:
    title = f"{found.num_rollouts:,} rollouts, judged by {found.verifier} (first verdict each)"
    rows = [
        (
            author.sampler,
            author.policy,
            amount(author.problems),
            amount(author.rollouts),
            percent(
                _share(author.outcomes["correct"], sum(author.outcomes.values()) - author.outcomes["unverifiable"])
            ).removesuffix(" %"),
            *(amount(author.outcomes[outcome]) for outcome in OUTCOMES[1:]),
            amount(author.unjudged),
            amount(author.truncated),
        )
        for author in found.authors
    ]
    heads = (
        "sampler",
        "policy",
        "prob-\nlems",
        "roll-\nouts",
        "right\n%",
        "wrong",
        "no\nans.",
        "not\nclear",
        "no\nverd.",
        "cut\noff",
    )
    _table(title, heads, rows, console, num_words=2)
    lines = [(verifier, *(f"{counts.get(outcome, 0):,}" for outcome in OUTCOMES)) for verifier, counts in found.verdicts.items()]
    heads = ("verifier", *(outcome.replace("_", " ") for outcome in OUTCOMES))
    _table(f"{found.num_verdicts:,} verdicts", heads, lines, console)
    if found.reasons:
        reasons = [
            (outcome.replace("_", " "), reason.replace("_", " ") or "-", f"{count:,}") for outcome, reason, count in found.reasons
        ]
        _table(
            f"Why not correct: the {len(reasons)} most frequent reasons", ("outcome", "reason", "rollouts"), reasons, console, 2
        )


def _pass_rates(found: Holdings, console: Console) -> None:
    title = "Problems by the share of their rollouts that are correct, in percent"
    rows = [
        (
            rates.sampler,
            f"{rates.problems:,}",
            percent(rates.mean).removesuffix(" %"),
            *map(amount, rates.bins),
            sparks(rates.bins),
        )
        for rates in found.pass_rates
    ]
    if rows:
        _table(title, ("sampler", "prob-\nlems", "mean", "0", "<20", "<40", "<60", "<80", "<100", "100", ""), rows, console)


def _lengths(found: Holdings, console: Console) -> None:
    for unit in ("characters", "tokens"):
        mine = [lengths for lengths in found.lengths if lengths.unit == unit]
        if not mine:
            continue
        edges = octaves(mine)
        counts = [{low: count for low, _, count in row.histogram} for row in mine]
        rows = [
            (row.sampler, f"{row.rollouts:,}", *map(amount, row.quantiles), sparks([count.get(edge, 0) for edge in edges]))
            for row, count in zip(mine, counts, strict=True)
        ]
        title = f"Length of a rollout in {unit}; the bars' bins double in width from {edges[0]:,} on"
        _table(title, ("sampler", "rollouts", *(_quantile(share) for share in QUANTILES), ""), rows, console)


def sparks(counts: Sequence[int]) -> str:
    """One character a count, as high as its share of the largest; a dot for none.

    >>> sparks([0, 1, 8])
    '·▁█'
    """
    largest = max(counts, default=0)
    return "".join("▁▂▃▄▅▆▇█"[max(0, -(-8 * count // largest) - 1)] if count else "·" for count in counts)


def _quantile(share: float) -> str:
    return {0.0: "least", 0.5: "median", 1.0: "most"}.get(share, f"{100 * share:g} %")


def _share(count: int, of: int) -> float | None:
    return count / of if of else None


def _findings(found: Holdings, console: Console) -> None:
    for finding in found.findings:
        style, mark = ("yellow", "!") if finding.is_warning else ("", "·")
        share = f" of {finding.of:,} ({percent(_share(finding.count, finding.of))})" if finding.of else ""
        line = f"{mark} {ENTRIES[finding.name].title}: {finding.count:,}{share}. {ENTRIES[finding.name].watch}"
        console.print(Text(line, style=style), soft_wrap=True)
    if not any(finding.is_warning for finding in found.findings):
        console.print(Text("nothing to warn of"))
