"""What a store holds: every number worked out by hand on twelve rollouts, in the record, the terminal and the page."""

import json
import re
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from test_cli import run_here

from headway.report.glossary import ENTRIES
from headway.report.holdings import Finding, Lengths, holdings, octaves
from headway.report.holdings_page import holdings_body, holdings_intro, holdings_words
from headway.report.holdings_terminal import render_holdings, sparks
from headway.store.store import Store
from headway.types import Label, Outcome, Problem, Rollout, Split, StopReason, Verdict

CORRECT, WRONG, NONE, UNVERIFIABLE = Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER, Outcome.UNVERIFIABLE


def problem(number: int, split: Split = Split.TRAIN, **more) -> Problem:
    return Problem.make("sums", "sums", f"{number} + 0 =", str(number), split, **{"difficulty": float(number), **more})


def rollout(of: Problem, sampler: str, index: int, text: str, **more) -> Rollout:
    made = {"stop_reason": StopReason.STOP, **more}
    return Rollout.make(of.id, sampler, made.pop("step", 0), index, made.pop("policy", "p"), text, **made)


@pytest.fixture
def store(tmp_path) -> Store:
    one, two, three = problem(1, solution="s"), problem(2, metadata='{"subject": "algebra"}'), problem(3)
    heldout, untried = problem(4, Split.HELDOUT), problem(5)
    made = Store(tmp_path / "store")
    made.add_problems([one, two, three, heldout, untried])
    rows: list[tuple[Rollout, Outcome | None]] = [
        # teacher: problem 1 has 1 of 2 right, problem 2 none of 1, problem 3's only one cannot be judged
        (rollout(one, "teacher", 0, "aaaa"), CORRECT),
        (rollout(one, "teacher", 1, "bbbbbbbb"), WRONG),
        (rollout(two, "teacher", 0, "cccc"), WRONG),
        (rollout(three, "teacher", 0, ""), UNVERIFIABLE),
        (rollout(heldout, "teacher", 0, "dddd"), CORRECT),
        # rl: two steps are one policy; problem 1 all right, problem 2 none of 2 (a repeated text), one not judged
        (rollout(one, "rl", 0, "e" * 16, step=1, policy="tiny/rl@1", num_tokens=3), CORRECT),
        (rollout(one, "rl", 0, "f" * 17, step=2, policy="tiny/rl@2", num_tokens=4), CORRECT),
        (rollout(two, "rl", 0, "gggg", step=1, policy="tiny/rl@1", num_tokens=5, stop_reason=StopReason.LENGTH), NONE),
        (rollout(two, "rl", 1, "gggg", step=1, policy="tiny/rl@1", num_tokens=9), WRONG),
        (rollout(two, "rl", 2, "hhhh", step=1, policy="tiny/rl@1", num_tokens=9), None),
        # the same text under another problem is no duplicate; its problem is not in the table
        (Rollout.make("0" * 16, "eval:rl", 0, 0, "tiny/rl", "gggg", stop_reason=StopReason.STOP), None),
    ]
    made.add_rollouts([row for row, _ in rows])
    judged = [Verdict(row.id, "rules@1", outcome, "numbers_differ") for row, outcome in rows if outcome]
    made.add_verdicts(judged)
    made.add_verdicts([replace(judged[0], outcome=WRONG)])  # a second opinion of the same verifier does not count
    made.add_verdicts([Verdict("f" * 16, "other@3", CORRECT)])  # of no rollout
    return made


def test_problems_by_source_split_family_and_domain(store):
    found = holdings(store)
    assert (found.num_problems, found.num_rollouts, found.num_verdicts) == (5, 11, 11)
    groups = [(g.source, g.split, g.family, g.domain, g.problems, g.solutions, g.difficulty) for g in found.problems]
    assert groups == [
        ("sums", "heldout", "sums", "", 1, 0, (4.0, 4.0, 4.0)),
        ("sums", "train", "sums", "", 3, 1, (1.0, 3.0, 5.0)),
        ("sums", "train", "sums", "algebra", 1, 0, (2.0, 2.0, 2.0)),
    ]
    assert found.difficulties == {"sums": tuple((float(n), float(n), 1) for n in range(1, 6))}


def test_authors_count_by_the_first_verdict_and_steps_of_rl_together(store):
    authors = {author.sampler: author for author in holdings(store).authors}
    assert list(authors) == ["teacher", "rl", "eval:rl"]  # as they came
    assert authors["teacher"].outcomes == {"correct": 2, "wrong": 2, "no_answer": 0, "unverifiable": 1}
    assert (authors["rl"].policy, authors["rl"].rollouts, authors["rl"].problems) == ("tiny/rl", 5, 2)
    assert (authors["rl"].truncated, authors["rl"].unjudged) == (1, 1)
    assert holdings(store).verdicts == {
        "other@3": {"correct": 1},
        "rules@1": {"correct": 4, "wrong": 4, "no_answer": 1, "unverifiable": 1},
    }
    assert holdings(store).reasons == (
        ("wrong", "numbers_differ", 3), ("no_answer", "numbers_differ", 1), ("unverifiable", "numbers_differ", 1),
    )  # fmt: skip


def test_pass_rates_leave_out_what_could_not_be_judged(store):
    teacher, rl = holdings(store).pass_rates
    # teacher: 1/2, 0/1 and the held-out 1/1: mean 1/2; rl: 2/2 and 0/2
    assert (teacher.sampler, teacher.problems, teacher.mean) == ("teacher", 3, 0.5)
    assert teacher.bins == (1, 0, 0, 1, 0, 0, 1)
    assert (rl.problems, rl.mean, rl.bins) == (2, 0.5, (1, 0, 0, 0, 0, 0, 1))


def test_rates_on_an_edge_belong_to_the_bin_above(tmp_path):
    one = problem(1)
    store = Store(tmp_path / "s")
    store.add_problems([one])
    rows = [rollout(one, "rl", i, str(i)) for i in range(5)]
    store.add_rollouts(rows)
    store.add_verdicts([Verdict(r.id, "rules@1", CORRECT if r.index < 3 else WRONG) for r in rows])
    assert holdings(store).pass_rates[0].bins == (0, 0, 0, 0, 1, 0, 0)  # 3/5 is in 60 to 80


def test_lengths_have_quantiles_and_bins_that_double(store):
    by_unit = {(row.unit, row.sampler): row for row in holdings(store).lengths}
    tokens = by_unit["tokens", "rl"]  # 3, 4, 5, 9, 9
    assert (tokens.rollouts, tokens.quantiles[0], tokens.quantiles[3], tokens.quantiles[6]) == (5, 3, 5, 9)
    assert tokens.histogram == ((2, 4, 1), (4, 8, 2), (8, 16, 2))
    assert ("tokens", "teacher") not in by_unit
    assert by_unit["characters", "teacher"].histogram == ((0, 1, 1), (4, 8, 3), (8, 16, 1))
    assert octaves([tokens]) == [2, 4, 8]
    assert octaves([Lengths("x", "characters", 2, (0,), ((0, 1, 1), (4, 8, 1)))]) == [0, 1, 2, 4]


def test_what_deserves_a_warning(store):
    found = {finding.name: (finding.count, finding.of, finding.is_warning) for finding in holdings(store).findings}
    assert found == {
        "no_verdict": (2, 11, True),
        "unverifiable_rollouts": (1, 11, True),
        "truncated_rollouts": (1, 11, True),
        "empty_texts": (1, 11, True),
        "duplicate_texts": (1, 11, True),
        "on_heldout_problems": (1, 11, True),
        "without_problem": (1, 11, True),
        "without_rollout": (1, 11, True),
        "unsolved_problems": (1, 3, True),  # problem 2; problem 3 has no judged rollout
        "disagreeing_problems": (1, 3, False),  # problem 1, over both samplers
        "unsampled_problems": (1, 5, False),
    }
    assert set(found) <= ENTRIES.keys()


def test_many_difficulties_share_ten_bins(tmp_path):
    store = Store(tmp_path / "s")
    store.add_problems([replace(problem(n), difficulty=float(n)) for n in range(101)])
    bins = holdings(store).difficulties["sums"]
    assert bins[0] == (0.0, 9.0, 10)
    assert bins[-1] == (90.0, 100.0, 11)  # the highest is in the last
    assert len(bins) == 10


def test_a_few_truncated_ones_are_no_warning(tmp_path):
    one, store = problem(1), Store(tmp_path / "s")
    store.add_problems([one])
    rows = [rollout(one, "rl", i, str(i), stop_reason=StopReason.LENGTH if i == 0 else StopReason.STOP) for i in range(51)]
    store.add_rollouts(rows)
    store.add_verdicts([Verdict(r.id, "rules@1", CORRECT) for r in rows])
    assert holdings(store).findings == (Finding("truncated_rollouts", 1, 51, False),)  # below 2 %


def test_another_verifier_tells_another_story(store):
    found = holdings(store, "other@3")
    assert found.pass_rates == ()
    assert Finding("no_verdict", 11, 11, True) in found.findings


def test_an_empty_table_is_no_mistake(tmp_path):
    found = holdings(Store(tmp_path / "s"))
    assert (found.num_problems, found.problems, found.authors, found.findings) == (0, (), (), ())
    shown = StringIO()
    render_holdings(found, Console(file=shown, width=80))
    assert "nothing to warn of" in shown.getvalue()
    assert "0 problems" in holdings_intro(found)
    assert holdings_body(found)


def test_the_terminal_fits_and_names_everything(store):
    narrow, wide = StringIO(), StringIO()
    render_holdings(holdings(store), Console(file=narrow, width=80))
    render_holdings(holdings(store), Console(file=wide, width=120))
    text = wide.getvalue()
    for word in ("algebra", "tiny/rl", "rules@1", "numbers differ", "Duplicate texts: 1 of 11 (9.1 %)", "<100"):
        assert word in text
    tables = [line for line in narrow.getvalue().splitlines() if not line.startswith(("!", "·"))]
    assert max(map(len, tables)) <= 80


def test_labels_by_their_labeller_are_on_the_page_and_in_the_terminal(store):
    assert "by label" not in holdings_body(holdings(store))
    ids = [problem.id for problem in store.problems()]
    said = [Label(ids[0], "model:m@1", "geometry", "hard", 3.0), Label(ids[1], "model:m@1", "geometry", "hard", 3.0)]
    store.add_labels([*said, Label(ids[2], "model:m@1", "<b>", "easy", 1.0)], "labels")
    store.add_labels([Label(ids[1], "model:m@1", "geometry", "easy", 1.0)], "again")  # the last word counts
    found = holdings(store)
    body = holdings_body(found)
    rows = re.findall(r"<tr><th[^>]*>model:m@1</th>(.*?)</tr>", body)
    assert [re.sub(r"<[^>]+>", "|", row).replace("||", "|") for row in rows] == [
        "|&lt;b&gt;|easy|1|", "|geometry|easy|1|", "|geometry|hard|1|",
    ]  # fmt: skip
    assert "labels" in holdings_words(found)
    screen = StringIO()
    render_holdings(found, Console(file=screen, width=100))
    assert "Problems by label" in screen.getvalue()


def test_bars_are_to_scale():
    assert sparks([0, 1, 4, 8]) == "·▁▄█"
    assert sparks([]) == ""


def test_foreign_names_stay_text_in_the_section(tmp_path):
    evil = "<script>x</script>"
    one = Problem.make(evil, evil, "q", "1", Split.TRAIN, difficulty=1.0, metadata=json.dumps({"domain": evil}))
    two = Problem.make(evil, evil, "r", "1", Split.TRAIN, difficulty=2.0, metadata="no JSON")
    store = Store(tmp_path / "s")
    store.add_problems([one, two])
    made = rollout(one, evil, 0, evil, policy=evil)
    store.add_rollouts([made])
    store.add_verdicts([Verdict(made.id, "rules@1", WRONG, evil)])
    body = holdings_body(holdings(store))
    assert "<script" not in body
    assert body.count("&lt;script&gt;") >= 6


def test_every_number_of_the_section_has_its_entry(store):
    found = holdings(store)
    assert holdings_words(found) <= ENTRIES.keys()
    assert {finding.name for finding in found.findings} <= holdings_words(found)


def test_the_verb_prints_a_table_or_one_object(store, capsys):
    code, output, _ = run_here(capsys, "data", str(store.path))
    assert code == 0
    assert "5 problems" in output
    code, output, _ = run_here(capsys, "data", str(store.path), "--json")
    assert json.loads(output)["num_rollouts"] == 11


def test_the_verb_says_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (("data", "nowhere"), ("data", "a", "--run", "b"), ("data",)):
        code, output, errors = run_here(capsys, *words)
        assert (code, output, errors.count("\n")) == (2, "", 1)
