"""What the stages share: documents that end in the stop token, selections that stay frozen, samples that are kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_sampler import parities, tokenizer
from tiny_workspace import OPTIMIZER, taught, workspace

from headway.errors import RunError, StoreError
from headway.problems.prompt import messages
from headway.sample import Plan
from headway.stages.base import train_base
from headway.stages.dpo import learn_preferences
from headway.stages.midtrain import midtrain, split_validation
from headway.stages.sft import finetune
from headway.store.queries import midtrain_examples, training_problems
from headway.types import Example, Outcome, Problem, Split

C, W = Outcome.CORRECT, Outcome.WRONG
LONG = "first we count on and on " * 20 + "\\boxed{1}"


def selection(root: Path, stage: str) -> dict[str, Any]:
    return json.loads((root / "tiny" / "selections" / f"{stage}.json").read_text(encoding="utf-8"))


def answers(problems: list[Problem]) -> dict[Problem, list[tuple[str, Outcome]]]:
    return {p: [(f"\\boxed{{{p.reference}}}", C), (f"\\boxed{{{1 - int(p.reference)}}}", W)] for p in problems}


def test_a_document_is_prompt_completion_and_stop_token(tmp_path: Path) -> None:
    words, (problem,) = tokenizer(), parities(1)
    prompt = words.prompt_ids(messages(problem))
    completion = tuple(words.encode("\\boxed{0}"))
    with workspace(tmp_path) as work:
        (learned,) = work.documents([Example(problem, "", "\\boxed{0}")])
        (whole,) = work.documents([Example(problem, "", "\\boxed{0}")], on_prompt=True)
        assert work.prompt_ids(problem) == prompt
    assert learned.ids == whole.ids == (*prompt, *completion, words.stop_id)
    assert (learned.first_target, whole.first_target) == (len(prompt), 1)
    assert learned.num_targets == len(completion) + 1


def test_a_stage_reads_the_table_as_it_was_when_its_selection_was_frozen(tmp_path: Path) -> None:
    problems = parities(12)
    with workspace(tmp_path) as work:
        first = taught(work.store, answers(problems[:4]))
        before = midtrain_examples(work.table("midtrain"))
        work.freeze("midtrain", before, before.ids)
    kept = (tmp_path / "tiny/selections/midtrain.json").read_bytes()
    with workspace(tmp_path) as work:
        taught(work.store, answers(problems[4:]), "more")
        after = midtrain_examples(work.table("midtrain"))
        assert (after.rows, after.ids, after.versions) == (before.rows, before.ids, before.versions)
        assert set(after.ids) == set(first[::2])
        assert len(midtrain_examples(work.store).ids) == 12
        work.freeze("midtrain", after, after.ids)
    assert (tmp_path / "tiny/selections/midtrain.json").read_bytes() == kept


def test_samples_that_the_table_holds_are_not_drawn_again(tmp_path: Path) -> None:
    plan = Plan("dpo", 0, "tiny/sft", 1.0, 1.0, 8)
    with workspace(tmp_path, problems=520) as work:
        work.sample_stored(parities(520), 2, plan, "dpo", "dpo")
        before = work.store.rollouts(tokens=True), work.store.verdicts()
        assert len(before[0]) == 1040
    with workspace(tmp_path, problems=520) as work:
        with torch.no_grad():
            work.model.norm.weight.zero_()  # another policy would sample something else
        work.sample_stored(parities(520), 2, plan, "dpo", "dpo")
        assert (work.store.rollouts(tokens=True), work.store.verdicts()) == before


# -- what is too long for a stage --------------------------------------------------------------------------------------


def test_sft_and_midtrain_freeze_the_ids_that_they_learn_from(tmp_path: Path) -> None:
    problems = parities(12)
    short = {"optimizer": OPTIMIZER, "max_tokens": 40, "epochs": 1}
    rows = {"optimizer": OPTIMIZER, "seq_len": 40, "max_epochs": 1, "batch_rows": 4, "validation_share": 0.25}
    with workspace(tmp_path, sft=short, midtrain=rows) as work:
        ids = taught(work.store, {p: [(LONG, C) if n < 3 else (f"\\boxed{{{p.reference}}}", C)] for n, p in enumerate(problems)})
        fitted = midtrain(work)
        finetune(work)
    for stage in ("midtrain", "sft"):
        found = selection(tmp_path, stage)
        assert set(found["ids"]) == set(ids[3:])
        assert found["funnel"]["kept"] == 9
        assert found["funnel"]["dropped"]["longer than the stage allows"] == 3
        assert found["funnel"]["considered"] == 9 + sum(found["funnel"]["dropped"].values())
    assert (fitted.notes["documents"], fitted.notes["validation_documents"]) == (7, 2)  # round(0.25 x 9) = 2


def test_dpo_counts_problems_and_drops_pairs_that_are_too_long(tmp_path: Path) -> None:
    """Three problems of two pairs each. One has two long pairs, one has one: a problem is lost, three pairs are left."""
    a, b, c = parities(3)
    pair: list[tuple[str, Outcome]] = [("\\boxed{0}", C), ("so \\boxed{0}", C), ("\\boxed{9}", W), ("so \\boxed{9}", W)]
    lengthy: list[tuple[str, Outcome]] = [(LONG, C), ("oh " + LONG, C), (LONG + "!", W), ("oh " + LONG + "!", W)]
    one_lengthy = [pair[0], lengthy[0], pair[2], lengthy[2]]
    settings = {"optimizer": OPTIMIZER, "max_tokens": 40, "pairs_per_problem": 2, "batch_pairs": 2}
    with workspace(tmp_path, dpo=settings) as work:
        taught(work.store, {a: pair, b: lengthy, c: one_lengthy})
        fitted = learn_preferences(work)
    found = selection(tmp_path, "dpo")
    assert (found["funnel"]["considered"], found["funnel"]["kept"]) == (3, 2)
    assert found["funnel"]["dropped"]["longer than the stage allows"] == 1
    assert len(found["ids"]) == found["report"]["pairs"] == 3
    assert fitted.steps == 2  # ceil(3 / 2)


def test_another_run_with_another_beta_reuses_the_references_log_probs(tmp_path: Path) -> None:
    settings = {"optimizer": OPTIMIZER, "batch_pairs": 2}

    def first_row(name: str, **more: Any) -> tuple[list[str], dict[str, Any]]:
        """The cache's files after a run, and its first step."""
        with workspace(tmp_path, name=name, dpo=settings | more) as work:
            taught(work.store, answers(parities(4)))
            learn_preferences(work)
        rows = (tmp_path / name / "metrics/dpo.jsonl").read_text(encoding="utf-8").splitlines()
        return sorted(path.name for path in (tmp_path / ".cache/reference").rglob("*.safetensors")), json.loads(rows[0])

    files, row = first_row("one")
    assert len(files) == 1
    again, other = first_row("two", beta=0.7, loss="hinge")
    assert again == files  # nothing new was computed
    assert other["chosen_shift"] == row["chosen_shift"] == pytest.approx(0.0, abs=1e-5)
    assert other["loss"] == pytest.approx(1.0, abs=1e-4)  # the hinge's start


def test_the_base_drops_and_counts_questions_that_do_not_fit(tmp_path: Path) -> None:
    with workspace(tmp_path, base={"optimizer": OPTIMIZER, "seq_len": 16, "batch_rows": 4}) as work:
        wordy = [Problem.make("t", "t", f"is {i} odd" + " or even" * i, "1", p.split) for i, p in enumerate(parities(4))]
        work.store.add_problems(wordy, "wordy")
        everyone = parities(12) + wordy
        lengths = [len(d.ids) for d in work.documents([Example(p, "", f"\\boxed{{{p.reference}}}") for p in everyone])]
        train_base(work)
    found = selection(tmp_path, "base")
    kept = [p.id for p, n in zip(everyone, lengths, strict=True) if n <= 16]
    assert 12 <= len(kept) < 16
    assert sorted(found["ids"]) == sorted(kept)
    assert found["funnel"]["dropped"]["longer than the stage allows"] == 16 - len(kept)


def test_the_base_may_learn_from_sources_of_its_own_alone(tmp_path: Path) -> None:
    sources = [{"family": "chain_sum", "count": 3}, {"name": "facts", "family": "chain_sum", "count": 3, "base_only": True}]
    base = {"optimizer": OPTIMIZER, "seq_len": 64, "batch_rows": 4, "own_sources": True}
    with workspace(tmp_path, sources=sources, base=base) as work:
        facts = [Problem.make("facts", "chain_sum", f"{i} + 1 =", str(i + 1), Split.TRAIN) for i in range(5)]
        work.store.add_problems(facts, "facts")
        train_base(work)
    found = selection(tmp_path, "base")
    assert sorted(found["ids"]) == sorted(p.id for p in facts)
    assert found["funnel"]["dropped"] == {"other sources": 12}


def test_few_rows_are_still_learned_for_every_epoch(tmp_path: Path) -> None:
    """A batch larger than the whole set is the whole set: three epochs are three steps, not a share of one."""
    rows = {"optimizer": OPTIMIZER, "seq_len": 64, "batch_rows": 128}
    sections = {"base": rows | {"epochs": 3}, "midtrain": rows | {"max_epochs": 3, "validate_every": 9}}
    sections |= {"sft": {"optimizer": OPTIMIZER, "epochs": 3}, "dpo": {"optimizer": OPTIMIZER, "epochs": 3, "batch_pairs": 99}}
    with workspace(tmp_path, **sections) as work:
        taught(work.store, answers(parities(6)))
        assert [train(work).steps for train in (train_base, midtrain, finetune, learn_preferences)] == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("stage", "train"), [("midtrain", midtrain), ("sft", finetune), ("dpo", learn_preferences), ("base", train_base)]
)
def test_a_stage_that_is_left_with_nothing_says_its_funnel(tmp_path: Path, stage: str, train: Any) -> None:
    key = "max_tokens" if stage in ("sft", "dpo") else "seq_len"
    with workspace(tmp_path, **{stage: {key: 16}}) as work:
        long = parities(3)
        taught(work.store, {p: [(LONG, C), (LONG + "?", W)] for p in long})
        if stage == "base":
            wordy = [Problem.make("t", "t", f"is {i} odd " * 30, "1", p.split) for i, p in enumerate(long)]
            work.store = type(work.store)(tmp_path / "wordy")
            work.store.add_problems(wordy)
        with pytest.raises(StoreError, match=r"keeps nothing: .*kept 0 of [36]; dropped .*3 longer than the stage allows"):
            train(work)
    assert not (tmp_path / "tiny" / "selections" / f"{stage}.json").exists()


def test_validation_problems_are_apart_and_few() -> None:
    examples = [Example(p, f"{p.id}/{i}", "x") for p in parities(20) for i in range(3)]
    validation, training = split_validation(examples, 0.1)
    held = {e.problem.id for e in validation}
    assert len(held) == 2
    assert len(validation) == 6  # all rollouts of a problem are on one side
    assert held.isdisjoint(e.problem.id for e in training)
    assert len(validation) + len(training) == 60
    assert split_validation(examples[:3], 0.5) == ([], examples[:3])  # one problem: it is trained on
    two = split_validation(examples[:6], 0.01)
    assert [len(side) for side in two] == [3, 3]
    assert split_validation(list(reversed(examples)), 0.1)[0] == list(reversed(validation))


def test_a_training_that_diverges_is_one_line(tmp_path: Path) -> None:
    with workspace(tmp_path, sft={"optimizer": OPTIMIZER, "epochs": 1}, health={"preflight": False}) as work:
        taught(work.store, answers(parities(6)))
        with torch.no_grad():
            work.model.norm.weight[0] = float("inf")
        with pytest.raises(RunError, match=r"^sft: the gradient's norm is (nan|inf).*lower sft\.optimizer\.lr.*$"):
            finetune(work)


def test_held_out_problems_are_no_training_problems(tmp_path: Path) -> None:
    with workspace(tmp_path) as work:
        assert {p.id for p in training_problems(work.store).rows} == {p.id for p in parities(12)}
