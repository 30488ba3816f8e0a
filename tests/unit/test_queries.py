"""The four data sets: what they keep, in which bin everything else falls, and that held-out problems never come out."""

import re
from collections import Counter
from pathlib import Path

import pytest

from headway.errors import StoreError
from headway.store import queries
from headway.store.queries import (
    dpo_pairs,
    heldout_problems,
    midtrain_examples,
    pair_report,
    rl_problems,
    sft_examples,
    training_problems,
    validation_problems,
)
from headway.store.store import Store
from headway.types import Outcome, Pair, Problem, Rollout, Split, StopReason, Verdict

C, W, N, U = Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER, Outcome.UNVERIFIABLE
SFT = {"per_problem": 9, "max_repetition": 1.0, "shortest": True, "max_examples": 0, "seed": 0}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def add(
    store: Store, name: str, solved: list[tuple[str, Outcome | None]], split: Split = Split.TRAIN, sampler: str = "teacher",
    stop: StopReason = StopReason.IMPORTED, family: str = "sums", difficulty: float = 0.0, step: int = 0,
    policy: str = "t", num_tokens: int = 0, verifier: str = "rules@1", source: str = "made",
) -> Problem:  # fmt: skip
    """One problem with rollouts of these texts and outcomes (None: no verdict)."""
    problem = Problem.make(source, family, name, "1", split, difficulty=difficulty)
    rollouts = [
        Rollout.make(problem.id, sampler, step, i, policy, text, stop_reason=stop, num_tokens=num_tokens)
        for i, (text, _) in enumerate(solved)
    ]
    verdicts = [Verdict(r.id, verifier, outcome) for r, (_, outcome) in zip(rollouts, solved, strict=True) if outcome is not None]
    store.add_problems([problem])
    store.add_rollouts(rollouts)
    store.add_verdicts(verdicts)
    return problem


def texts(selection) -> list[str]:
    return sorted(example.completion for example in selection.rows)


def test_midtrain_keeps_every_correct_rollout_once_and_bins_the_rest(store):
    add(store, "a", [("x", C), ("y", C), ("x", C), ("bad", W), ("none", N), ("odd", U), ("later", None)])
    add(store, "b", [("x", C)])  # another problem's text is no duplicate
    add(store, "c", [("cut", C)], stop=StopReason.LENGTH)
    add(store, "d", [("mine", C)], sampler="rl")  # not a teacher's: not considered
    found = midtrain_examples(store)
    assert texts(found) == ["x", "x", "y"]
    assert found.funnel.considered == 9  # 7 + 1 + 1
    assert found.funnel.dropped == {
        "duplicate text": 1, "wrong": 1, "no answer": 1, "unverifiable": 1, "no verdict": 1, "truncated": 1,
    }  # fmt: skip
    assert found.ids == [example.rollout_id for example in found.rows]
    assert found.versions == store.versions()
    assert found.name == "midtrain"


def test_a_correct_text_is_no_duplicate_of_an_unusable_one(store):
    add(store, "a", [("x", None), ("x", C)])
    assert texts(midtrain_examples(store)) == ["x"]


def test_midtrain_is_ordered_by_problem_and_index(store):
    problems = [add(store, f"p{i}", [(f"{i} {k}", C) for k in range(12)]) for i in range(3)]
    order = [(e.problem.id, e.completion) for e in midtrain_examples(store).rows]
    expected = {p.id: [f"{i} {k}" for k in range(12)] for i, p in enumerate(problems)}
    assert order == [(i, text) for i in sorted(expected) for text in expected[i]]  # 2 before 10: by number, not as text


@pytest.mark.parametrize("split", [Split.HELDOUT, Split.VALIDATION])
def test_problems_that_are_not_for_training_never_come_out(store, split):
    solved = [("right", C), ("wrong", W)]
    train = add(store, "train", solved)
    other = add(store, "other", solved, split=split)
    add(store, "other", [("own", C), ("own wrong", W)], split=split, sampler="dpo", policy="sft")
    every = ("teacher", "import", "dpo", "rl", "eval:sft")
    for selection in (
        midtrain_examples(store, every),
        sft_examples(store, **SFT, samplers=every),
        dpo_pairs(store, samplers=every, pairs_per_problem=9, seed=0),
        dpo_pairs(store, samplers=every, pairs_per_problem=9, seed=0, allow_no_answer=True),
    ):
        assert {row.problem.id for row in selection.rows} == {train.id}
    for selection in (rl_problems(store, seed=0), rl_problems(store, seed=0, sampler="teacher"), training_problems(store)):
        assert other.id not in selection.ids
    assert train.id not in (heldout_problems if split is Split.HELDOUT else validation_problems)(store).ids


def test_the_condition_for_training_is_written_once():
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(Path(queries.__file__).parent.glob("*.py")))
    assert len(re.findall(r"split\s*=\s*'train'", text)) == 1


def test_another_verifiers_verdicts_do_not_count(store):
    add(store, "a", [("x", C)])
    add(store, "b", [("y", C)], verifier="rules@2")
    assert texts(midtrain_examples(store)) == ["x"]
    assert texts(midtrain_examples(store, verifier="rules@2")) == ["y"]
    assert midtrain_examples(store, verifier="rules@2").funnel.dropped == {"no verdict": 1}


def test_the_first_of_two_verdicts_counts_and_no_row_doubles(store):
    add(store, "a", [("x", C)])
    (rollout,) = store.rollouts()
    store.add_verdicts([Verdict(rollout.id, "rules@1", W)], "again")
    assert midtrain_examples(store).funnel.considered == 1


def test_sft_takes_k_a_problem_the_shortest_first(store):
    add(store, "a", [("long text", C), ("short", C), ("mid te", C)])
    add(store, "b", [("only", C)])
    found = sft_examples(store, **SFT | {"per_problem": 2})
    assert texts(found) == ["mid te", "only", "short"]
    assert found.funnel.dropped["over k a problem"] == 1


def test_sft_without_shortest_depends_on_the_seed_only(store):
    for i in range(12):
        add(store, f"p{i}", [(f"{i} {k} {'x' * k}", C) for k in range(4)])
    chosen = [texts(sft_examples(store, **SFT | {"per_problem": 1, "shortest": False, "seed": s})) for s in (0, 0, 1)]
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]


def test_sft_drops_repetitive_and_too_long_ones(store):
    # "a", "a", "b", "a": 4 lines, 2 different ones, so half of them repeat: 0.5
    add(store, "a", [("a\na\nb\na", C), ("a\nb", C)])
    add(store, "b", [("sampled", C)], num_tokens=50)
    assert texts(sft_examples(store, **SFT | {"max_repetition": 0.5})) == ["a\na\nb\na", "a\nb", "sampled"]
    found = sft_examples(store, **SFT | {"max_repetition": 0.49}, max_tokens=49)
    assert texts(found) == ["a\nb"]
    assert (found.funnel.dropped["repetitive"], found.funnel.dropped["too long"]) == (1, 1)


def test_sft_is_balanced_over_family_and_difficulty(store):
    for i in range(30):  # difficulties 0 to 29: thirds of 10 each
        add(store, f"s{i}", [(f"s{i}", C)], difficulty=float(i))
    for i in range(6):  # one difficulty: one bin
        add(store, f"q{i}", [(f"q{i}", C)], family="equations")
    found = sft_examples(store, **SFT | {"max_examples": 16})
    bins = Counter((e.problem.family, int(e.problem.difficulty // 10)) for e in found.rows)
    assert bins == {("sums", 0): 4, ("sums", 1): 4, ("sums", 2): 4, ("equations", 0): 4}
    assert found.funnel.dropped["balance"] == 20
    few = sft_examples(store, **SFT | {"max_examples": 32})  # equations has 6 only: the rest goes to the others
    assert Counter(e.problem.family for e in few.rows) == {"sums": 26, "equations": 6}


def test_dpo_bins_problems(store):
    both = add(store, "both", [("right", C), ("wrong", W)])
    add(store, "easy", [("right", C), ("also", C)])
    add(store, "hard", [("wrong", W), ("none", N)])
    add(store, "unjudged", [("x", None)])
    add(store, "broken", [("x", U)])
    add(store, "unanswered", [("right", C), ("none", N)])
    found = dpo_pairs(store, samplers=["teacher"], pairs_per_problem=1, seed=0)
    (pair,) = found.rows
    assert (pair.problem, pair.chosen, pair.rejected) == (both, "right", "wrong")
    assert found.ids == [f"{pair.chosen_id}/{pair.rejected_id}"]
    assert (found.funnel.considered, found.funnel.kept) == (6, 1)
    assert found.funnel.dropped == {
        "all correct": 1, "all wrong": 1, "no verdict": 1, "unverifiable": 1, "nothing to pair": 1,
    }  # fmt: skip
    more = dpo_pairs(store, samplers=["teacher"], pairs_per_problem=1, seed=0, allow_no_answer=True)
    assert sorted(p.rejected for p in more.rows) == ["none", "wrong"]


def test_dpo_leaves_truncated_rollouts_out_on_both_sides(store):
    add(store, "a", [("right", C)])
    add(store, "a", [("cut", W)], stop=StopReason.LENGTH)
    with pytest.raises(StoreError, match="1 nothing to pair"):
        dpo_pairs(store, samplers=["teacher"], pairs_per_problem=1, seed=0, allow_no_answer=True)


def test_dpo_pairs_similar_lengths_and_uses_a_rollout_once(store):
    # lengths: correct 2, 9; wrong 3, 8, 30. Differences: 9-8 = 1 and 2-3 = 1 come first; 30 finds nobody left
    add(store, "a", [("c" * 2, C), ("c" * 9, C), ("w" * 3, W), ("w" * 8, W), ("w" * 30, W)])
    found = dpo_pairs(store, samplers=["teacher"], pairs_per_problem=5, seed=0)
    assert sorted((len(p.chosen), len(p.rejected)) for p in found.rows) == [(2, 3), (9, 8)]
    assert (found.funnel.considered, found.funnel.kept) == (1, 1)  # problems
    assert len(dpo_pairs(store, samplers=["teacher"], pairs_per_problem=1, seed=0).rows) == 1


def test_dpo_pairs_what_begins_alike_first(store):
    # common beginnings: "1+1=2;3" with "1+1=2;4" 6 characters, with "1+1=3;9" 4, with "nothing" 0, though its length is the same
    add(store, "a", [("1+1=2;3", C), ("nothing", W), ("1+1=3;9", W), ("1+1=2;4", W)])
    found = dpo_pairs(store, samplers=["teacher"], pairs_per_problem=3, seed=0)
    assert [(p.chosen, p.rejected) for p in found.rows] == [("1+1=2;3", "1+1=2;4")]


def test_dpo_does_not_pair_across_authors_and_can_take_one_step(store):
    add(store, "a", [("right", C)])
    add(store, "a", [("wrong", W)], sampler="dpo", policy="sft")
    with pytest.raises(StoreError, match="1 nothing to pair"):
        dpo_pairs(store, samplers=["teacher", "dpo"], pairs_per_problem=1, seed=0)
    add(store, "b", [("r1", C), ("w1", W)], sampler="rl", step=1, policy="rl@1")
    add(store, "b", [("r2", C), ("w2", W)], sampler="rl", step=2, policy="rl@2")
    found = dpo_pairs(store, samplers=["rl"], pairs_per_problem=5, seed=0, step=2)
    assert [(p.chosen, p.rejected) for p in found.rows] == [("r2", "w2")]


def test_dpo_pairs_across_samplers_only_where_it_is_asked_and_after_those_of_one_author(store):
    # "a": the import is right, both of the policy's own are wrong -> one pair, since the only correct rollout is used once
    add(store, "a", [("imported", C)], sampler="import", policy="gsm8k")
    add(store, "a", [("own wrong", W), ("own much worse one", W)], sampler="dpo", policy="sft")
    # "b": the policy makes a pair of its own; of what is left, the import is paired with the second wrong one
    add(store, "b", [("the long import", C)], sampler="import", policy="gsm8k")
    add(store, "b", [("own right", C), ("own wrong", W), ("another wrong one", W)], sampler="dpo", policy="sft")
    either = ["import", "dpo"]
    alone = dpo_pairs(store, samplers=either, pairs_per_problem=9, seed=0)
    assert [(p.chosen, p.rejected) for p in alone.rows] == [("own right", "own wrong")]
    assert pair_report(alone.rows)["across_samplers"] == 0.0
    both = dpo_pairs(store, samplers=either, pairs_per_problem=9, seed=0, across_samplers=True)
    found = {(p.problem.question, p.chosen, p.rejected, p.chosen_by, p.rejected_by) for p in both.rows}
    assert found == {
        ("a", "imported", "own wrong", "gsm8k", "sft"),
        ("b", "own right", "own wrong", "sft", "sft"),
        ("b", "the long import", "another wrong one", "gsm8k", "sft"),
    }
    assert both.funnel.kept == 2  # problems
    assert pair_report(both.rows)["across_samplers"] == 2 / 3
    assert len(dpo_pairs(store, samplers=either, pairs_per_problem=1, seed=0, across_samplers=True).rows) == 2


def test_the_pair_report_shows_length_and_format_bias():
    problem = Problem.make("s", "f", "q", "1", Split.TRAIN)
    # chosen 4 and 8 characters (mean 6); rejected 2 and 10 (mean 6); boxed: chosen 1 of 2, rejected none
    pairs = [Pair(problem, "aaaa", "bb", "1", "2"), Pair(problem, "\\boxed{}", "b" * 10, "3", "4")]
    report = pair_report(pairs)
    assert report["chosen_characters"] == 6.0
    assert report["rejected_characters"] == 6.0
    assert (report["chosen_longer"], report["rejected_longer"]) == (0.5, 0.5)
    assert (report["chosen_boxed"], report["rejected_boxed"], report["same_format"]) == (0.5, 0.0, 0.5)
    assert pair_report([]) == {"pairs": 0}


def test_rl_problems_come_in_a_seeded_order_that_a_limit_only_cuts(store):
    store.add_problems([Problem.make("s", "f", f"q{i}", "1", Split.TRAIN) for i in range(30)])
    everything = rl_problems(store, seed=0)
    assert everything.ids != [p.id for p in store.problems()]
    assert rl_problems(store, seed=0, limit=7).ids == everything.ids[:7]
    assert rl_problems(store, seed=0, limit=7).funnel.dropped["over the limit"] == 23
    assert set(rl_problems(store, seed=1).ids) == set(everything.ids)
    assert rl_problems(store, seed=1).ids != everything.ids


def test_rl_problems_drop_what_agrees_what_was_used_and_other_families(store):
    mixed = add(store, "mixed", [("r", C), ("w", W)], sampler="dpo")
    add(store, "easy", [("r", C), ("s", C)], sampler="dpo")
    hard = add(store, "hard", [("w", W), ("n", N)], sampler="dpo")
    fresh = add(store, "fresh", [("r", C)], sampler="teacher")
    unsure = add(store, "unsure", [("u", U)], sampler="dpo")
    used = add(store, "used", [])
    add(store, "equation", [], family="equations")
    found = rl_problems(store, seed=0, sampler="dpo", families=["sums"], exclude=[used.id])
    assert set(found.ids) == {mixed.id}
    assert {k: v for k, v in found.funnel.dropped.items() if v} == {
        "all correct": 1, "all wrong": 1, "no verdict": 2, "used before": 1, "other families": 1,
    }  # fmt: skip
    found = rl_problems(store, seed=0, sampler="dpo", families=["sums"], exclude=[used.id], keep_all_wrong=True)
    assert set(found.ids) == {mixed.id, hard.id}
    everything = rl_problems(store, seed=0, families=["sums"], exclude=[used.id])
    assert {fresh.id, unsure.id, mixed.id, hard.id} < set(everything.ids)


def test_heldout_problems_are_balanced_over_sources(store):
    for source, count in (("big", 20), ("small", 3)):
        for i in range(count):
            store.add_problems([Problem.make(source, "f", f"{source} {i}", "1", Split.HELDOUT)])
    found = heldout_problems(store, limit=10, seed=0)
    assert Counter(p.source for p in found.rows) == {"big": 7, "small": 3}
    assert found.ids == heldout_problems(store, limit=10, seed=0).ids
    assert len(heldout_problems(store).rows) == 23


def test_an_empty_selection_prints_its_funnel(store):
    add(store, "a", [("bad", W), ("none", N)])
    add(store, "h", [("good", C)], split=Split.HELDOUT)
    with pytest.raises(StoreError, match="midtrain: kept 0 of 2; dropped 1 no answer, 1 wrong"):
        midtrain_examples(store)
    with pytest.raises(StoreError, match="sft: kept 0 of 2"):
        sft_examples(store, **SFT)
    with pytest.raises(StoreError, match="dpo: kept 0 of 1; dropped 1 all wrong"):
        dpo_pairs(store, samplers=["teacher"], pairs_per_problem=1, seed=0)
    with pytest.raises(StoreError, match="rl: kept 0 of 1; dropped 1 other families"):
        rl_problems(store, seed=0, families=["none"])
    with pytest.raises(StoreError, match="validation: kept 0 of 0"):
        validation_problems(store)


def test_a_selection_of_a_frozen_version_does_not_change_when_the_table_grows(store):
    add(store, "a", [("x", C)])
    first = midtrain_examples(store)
    add(store, "b", [("y", C)])
    again = midtrain_examples(store.at(first.versions))
    assert (again.rows, again.ids, again.funnel, again.versions) == (first.rows, first.ids, first.funnel, first.versions)
    assert len(midtrain_examples(store).rows) == 2


def test_sft_can_be_balanced_over_lengths(store):
    for i in range(9):  # lengths 1 to 9: thirds of three each
        add(store, f"p{i}", [("x" * (i + 1), C)])
    found = sft_examples(store, **SFT | {"max_examples": 6}, by="length")
    assert Counter(min(2, (len(e.completion) - 1) // 3) for e in found.rows) == {0: 2, 1: 2, 2: 2}


def test_sft_can_be_balanced_over_like_questions(store):
    for i in range(40):
        add(store, f"Tom has {i} apples and buys 7 more; how many apples does Tom have?", [(f"t{i}", C)])
    others = ["Find the derivative of the logarithm.", "A circle is inscribed in a square.", "Which prime divides both numbers?"]
    for other in others:
        add(store, other, [(other, C)])
    found = sft_examples(store, **SFT | {"max_examples": 4}, by="diversity")
    assert {e.problem.question for e in found.rows} >= set(others)  # forty of one kind do not crowd out three others
    by_difficulty = sft_examples(store, **SFT | {"max_examples": 4})
    assert not {e.problem.question for e in by_difficulty.rows} >= set(others)


def test_dpo_leaves_pairs_of_different_lengths_out_in_a_bin_of_their_own(store):
    add(store, "a", [("xx", C), ("yyyyyy", W)])
    add(store, "b", [("xx", C), ("yyy", W)])
    found = dpo_pairs(store, samplers=["teacher"], pairs_per_problem=1, seed=0, max_length_ratio=2.0)
    assert [(p.chosen, p.rejected) for p in found.rows] == [("xx", "yyy")]
    assert found.funnel.dropped == {"lengths too different": 1}


def test_dpo_by_the_hardest_pairs_with_the_answer_that_is_wrong_most_often(store):
    problem = add(store, "a", [("one 1", C)])
    wrong = [("one 5", "5"), ("by 7", "7"), ("or 7", "7"), ("one", "")]  # "one 5" begins most like the correct one
    rollouts = [
        Rollout.make(problem.id, "teacher", 0, 10 + i, "t", text, stop_reason=StopReason.IMPORTED)
        for i, (text, _) in enumerate(wrong)
    ]
    store.add_rollouts(rollouts)
    store.add_verdicts(
        [Verdict(r.id, "rules@1", W, "numbers_differ", answer) for r, (_, answer) in zip(rollouts, wrong, strict=True)]
    )
    chosen = {
        rule: dpo_pairs(store, samplers=["teacher"], pairs_per_problem=1, seed=0, pair_by=rule).rows[0].rejected
        for rule in ("beginning", "hardest")
    }
    assert chosen["beginning"] == "one 5"
    assert chosen["hardest"] in ("by 7", "or 7")
