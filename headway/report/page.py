"""One run as one self-contained page: `report.html` beside results.json, which opens from disk without a network.

    read_run, curves, funnels, holdings, readings --> sections of HTML text --> report.html (temporary file, then rename)

No script, no font, no picture from elsewhere: a Content-Security-Policy forbids them, and everything that came from a
data set or a model is escaped. The same folder gives the same bytes. The page claims no more than the tests do.

This file does not know how a chart is drawn (`charts`), where a number comes from (`tables`, `readings`), or the
colours (`page.css`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from headway.durable import read_json, write_atomic
from headway.ranks import by_first
from headway.report import charts
from headway.report.alarms import ALARMS_INTRO, alarm_list, alarm_words
from headway.report.curves import curve_cards, glossary_list
from headway.report.holdings import holdings
from headway.report.holdings_page import holdings_body, holdings_intro, holdings_words
from headway.report.markup import amount, duration, escape, listed, p_value, percent, points, size, table
from headway.report.readings import open_store
from headway.report.rollouts import rollout_section
from headway.report.tables import ALPHA, RunResults, StageRow, curves, funnels, read_run, readings, reports
from headway.types import Funnel

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_SECTIONS = (
    ("staircase", "Staircase"),
    ("alarms", "Alarms"),
    ("curves", "Curves"),
    ("funnels", "Funnels"),
    ("holdings", "What the table holds"),
    ("rollouts", "Rollouts to read"),
    ("run", "Recipe and environment"),
    ("words", "What the numbers mean"),
)


@by_first
def write_page(run_dir: str | Path) -> Path:
    """Write `report.html` of a run and return its path. RunError where `results.json` is missing or damaged."""
    path = Path(run_dir) / "report.html"
    write_atomic(path, page(run_dir))
    return path


def page(run_dir: str | Path) -> str:
    """The whole page as text."""
    run = read_run(run_dir)
    drawn = curves(run_dir)
    stages = [row.stage for row in run.stages]
    has_store = (Path(run_dir) / "store").is_dir()
    shown = readings(run_dir, stages) if has_store else []
    held = holdings(open_store(run_dir)) if has_store else None
    sieves = _funnels(funnels(run_dir), reports(run_dir))
    sections = [
        _staircase_section(run),
        _section("alarms", ALARMS_INTRO, alarm_list(Path(run_dir))),
        _section("curves", "Each optimizer step of each stage. Hover to read a value.", curve_cards(drawn)),
        _section("funnels", "Every row that a selection looked at is in exactly one bin.", sieves),
        _section("holdings", holdings_intro(held), holdings_body(held)),
        rollout_section(shown, stages),
        _section("run", "", _run_details(Path(run_dir))),
        _section("words", "", glossary_list({curve.name for curve in drawn} | holdings_words(held) | alarm_words(Path(run_dir)))),
    ]
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(run.name)}: Headway report</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"{_header(run)}\n<main>\n" + "\n".join(sections) + "\n</main>\n"
        "<footer>Written by Headway from the run's folder; opening it loads nothing else.</footer>\n</body>\n</html>\n"
    )


def headline(run: RunResults) -> tuple[str, str]:
    """What was measured, and what may be claimed of the stages: two sentences of HTML."""
    if not run.stages:
        return "Nothing has been evaluated yet.", ""
    last, first = run.stages[-1], run.stages[0]
    samples = f"{amount(last.samples_per_problem)} sample{'s' if last.samples_per_problem != 1 else ''} each"
    lead = (
        f"After <strong>{escape(last.stage)}</strong>, <strong>{percent(last.accuracy)}</strong> of the answers to "
        f"{last.num_problems:,} held-out problems are right (95&nbsp;% interval {_interval(last)}; {samples})"
    )
    lead += f", against {percent(first.accuracy)} after {escape(first.stage)}." if len(run.stages) > 1 else "."
    claims = []
    for claim, words in (("better", "better than the stage before"), ("worse", "worse than the stage before")):
        names = [row.stage for row in run.stages if row.claim == claim]
        if names:
            claims.append(f"{words}: {escape(listed(names))}")
    unclear = [row.stage for row in run.stages if row.claim == "no visible difference"]
    if unclear:
        claims.append(f"no visible difference: {escape(listed(unclear))}")
    return lead, f"Paired test on the same problems, p &lt; {ALPHA}: {'; '.join(claims)}." if claims else ""


def _header(run: RunResults) -> str:
    lead, claim = headline(run)
    facts = [("recipe", escape(run.recipe or "-")), ("seed", str(run.seed))]
    if run.stages:
        facts += [
            ("tokens trained", amount(sum(row.train_tokens for row in run.stages))),
            ("time in stages", duration(sum(row.wall_s for row in run.stages))),
        ]
    facts.append(("peak memory", size(run.peak_memory_bytes)))
    written = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in _SECTIONS)
    return (
        f"<header>\n<h1>{escape(run.name)}<small>Headway report</small></h1>\n"
        f'<p class="lead" id="headline">{lead}</p>\n'
        f'<p class="quiet">{claim}</p>\n<dl class="facts">{written}</dl>\n<nav>{links}</nav>\n</header>'
    )


def _section(name: str, intro: str, body: str) -> str:
    title = dict(_SECTIONS)[name]
    return (
        f'<section id="{name}">\n<h2>{title}</h2>\n'
        + (f'<p class="quiet">{intro}</p>\n' if intro else "")
        + f"{body}\n</section>"
    )


def _staircase_section(run: RunResults) -> str:
    if not run.stages:
        return _section("staircase", "No stage has been evaluated yet.", "")
    caption = (
        "The band around each step is the 95&nbsp;% interval with problems as the sampling unit; k samples of one "
        "problem are "
        f"not k independent pieces of evidence. p is of the paired t-test against the stage before, on the same "
        f"problems. One seed ({run.seed}): it speaks about this run's models, and each test stands alone."
    )
    figure = f'<figure class="plot">{charts.staircase(run.stages)}</figure><p class="note">{caption}</p>'
    intro = "Accuracy in percent on held-out problems after each stage."
    return _section("staircase", intro, figure + _stage_table(run.stages) + _family_table(run.stages))


def _stage_table(rows: Sequence[StageRow]) -> str:
    ks = sorted({k for row in rows for k in row.pass_at_k if k > 1})
    heads = ["stage", "accuracy", "95&nbsp;% interval", "against the stage before"]
    heads += [f"pass@{k}" for k in ks]
    heads += ["majority"] if any(row.majority is not None for row in rows) else []
    heads += ["likeliest"] if any(row.best_by_logprob is not None for row in rows) else []
    heads += ["truncated", "no answer"]
    heads += ["could not be judged"] if any(row.unverifiable for row in rows) else []
    heads += ["mean length"] if any(row.mean_tokens is not None for row in rows) else []
    heads += ["tokens trained", "time"]
    body = []
    for row in rows:
        kind = row.claim if row.claim in ("better", "worse") else ""
        test = f"{points(row.difference_vs_previous)} " if row.difference_vs_previous is not None else ""
        if row.claim:
            test += f'<span class="{kind}">{row.claim}</span> ({escape(p_value(row.p_vs_previous))})'
        cells = [f"<strong>{percent(row.accuracy)}</strong>", _interval(row), test]
        cells += [percent(row.pass_at_k.get(k)) for k in ks]
        cells += [percent(row.majority)] if "majority" in heads else []
        cells += [percent(row.best_by_logprob)] if "likeliest" in heads else []
        cells += [percent(row.truncated), percent(row.no_answer)]
        cells += [percent(row.unverifiable)] if "could not be judged" in heads else []
        cells += [amount(row.mean_tokens)] if "mean length" in heads else []
        cells += [amount(row.train_tokens), duration(row.wall_s)]
        body.append((row.stage, [f"<td>{cell}</td>" for cell in cells]))
    return table("stages", heads, body)


def _family_table(rows: Sequence[StageRow]) -> str:
    families = sorted({family for row in rows for family in row.families})
    if not families:
        return ""
    body = []
    for row in rows:
        cells = []
        for family in families:
            share = row.families.get(family)
            shade = f' class="heat" style="--share:{min(1.0, max(0.0, share)):.3f}"' if share is not None else ""
            cells.append(f"<td{shade}>{percent(share)}</td>")
        body.append((row.stage, cells))
    return table("families", ["accuracy by family", *(escape(family) for family in families)], body)


def _interval(row: StageRow) -> str:
    return f"{100 * row.ci_low:.1f} to {100 * row.ci_high:.1f}"


def _funnels(found: Sequence[tuple[str, Funnel]], kept: Mapping[str, Mapping[str, float]]) -> str:
    if not found:
        return '<p class="quiet">The run holds no selection.</p>'
    return "".join(_sieve(selection, funnel, kept.get(selection, {})) for selection, funnel in found)


def _sieve(selection: str, funnel: Funnel, kept: Mapping[str, float]) -> str:
    """One funnel: its bar, its bins, and what the kept rows are like (a float in [0, 1] is a share)."""
    name = selection if funnel.name == selection else f"{selection}: {funnel.name}"
    items = []
    for number, (reason, count) in enumerate(charts.funnel_parts(funnel)):
        kind = "kept" if number == 0 else f"l{(number - 1) % 4}"
        share = f" ({percent(count / funnel.considered)})" if funnel.considered else ""
        items.append(f'<li class="{kind}">{escape(reason)} {count:,}{share}</li>')
    facts = [
        f"{escape(key.replace('_', ' '))} {percent(value) if isinstance(value, float) and 0 <= value <= 1 else amount(value)}"
        for key, value in kept.items()
    ]
    note = f'<p class="note">Of the kept: {" · ".join(facts)}</p>' if facts else ""
    return (
        f'<div class="sieve"><div class="head"><h3>{escape(name)}</h3><span class="quiet">kept {funnel.kept:,} of '
        f"{funnel.considered:,}</span></div>{charts.funnel(funnel)}<ul>{''.join(items)}</ul>{note}</div>"
    )


def _run_details(run_dir: Path) -> str:
    parts = []
    for name, title in (("recipe.json", "Resolved recipe"), ("environment.json", "Environment")):
        path = run_dir / name
        if path.is_file():
            text = json.dumps(read_json(path), indent=2, ensure_ascii=False)
            parts.append(f'<details class="more"><summary>{title}</summary><pre>{escape(text)}</pre></details>')
    return "".join(parts) or '<p class="quiet">The folder holds neither recipe.json nor environment.json.</p>'
