"""A run whose batches are wrong does not start: each thing broken for real, and seen; and what is right passes."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_sampler import parities, policy, tokenizer
from tiny_workspace import OPTIMIZER, taught, workspace
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from headway.config import DpoConfig, MidtrainConfig, RlConfig, SftConfig
from headway.engine.engine import Engine
from headway.errors import RunError
from headway.model.attention import lay_out
from headway.model.tokenizer import Tokenizer
from headway.model.transformer import initialise
from headway.report.xray import render_xray
from headway.sample import Sampler
from headway.stages.base import train_base
from headway.stages.dpo import learn_preferences
from headway.stages.midtrain import midtrain
from headway.stages.preflight import check_start, preflight
from headway.stages.rl import reinforce
from headway.stages.sft import finetune
from headway.stages.workspace import Workspace
from headway.stages.xray import Looking
from headway.train.batching import Document, Flat, flatten
from headway.train.likelihood import Likelihood
from headway.train.policy import PolicyGradient, Sampled, Trajectory
from headway.train.preference import DocumentPair, Preference, reference_logprobs
from headway.types import Example, Outcome, Rollout, Verdict

C, W = Outcome.CORRECT, Outcome.WRONG
SFT = {"optimizer": OPTIMIZER, "epochs": 1, "batch_examples": 6}
RL: dict[str, Any] = {"steps": 1, "prompts": 4, "group_size": 4, "max_tokens": 16, "optimizer": OPTIMIZER}
SETTINGS = SftConfig.model_validate(SFT)


@contextmanager
def prepared(root: Path, words: Tokenizer | None = None, stops: Sequence[int] = (), **more: Any) -> Iterator[Workspace]:
    """A workspace with answers by the teacher; with another tokenizer, or an engine that stops elsewhere."""
    with workspace(root, sft=SFT, **more) as work:
        taught(
            work.store, {p: [(f"\\boxed{{{p.reference}}}", C), (f"\\boxed{{{1 - int(p.reference)}}}", W)] for p in parities(12)}
        )
        if words is not None or stops:
            work.tokenizer = words or work.tokenizer
            engine = Engine(work.model, stops or work.tokenizer.stop_ids)
            work.sampler = Sampler(engine, work.tokenizer, work.sampler._verifier, "", 0)
        yield work


def documents(work: Workspace) -> list[Document]:
    return work.documents([Example(p, "", f"\\boxed{{{p.reference}}}") for p in parities(8)])


def likelihood(work: Workspace, found: list[Document]) -> Likelihood:
    return Likelihood(work.model, found, lambda: iter([list(range(len(found)))] * 9), 10_000)


def refused(work: Workspace, objective: Any, config: Any = SETTINGS, stage: str = "sft") -> str:
    """The line that a stage is refused with; the policy is as it was, and nothing was logged."""
    before = {name: weight.clone() for name, weight in work.model.state_dict().items()}
    with pytest.raises(RunError) as error:
        work.fit(stage, objective, config, 2)
    assert all(torch.equal(weight, before[name]) for name, weight in work.model.state_dict().items())
    assert work.run.metrics(stage).rows() == []
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(f"{stage} does not start: the pre-flight check of its batches fails: ")
    assert json.loads((work.run.folder / "preflight" / f"{stage}.json").read_text())["passed"] is False
    return text.removeprefix(f"{stage} does not start: the pre-flight check of its batches fails: ")


class Laid:
    """An objective whose batches are given, as a broken one would lay them."""

    temperature = 1.0

    def __init__(self, flats: list[Any]):
        self.flats = flats

    def updates(self, step: int) -> Iterable[list[Any]]:
        yield self.flats


# -- what is right passes ----------------------------------------------------------------------------------------------


def test_every_stage_is_checked_once_and_kept(tmp_path: Path) -> None:
    rows = {"optimizer": OPTIMIZER, "seq_len": 64, "batch_rows": 2}
    sections = {"base": rows, "midtrain": rows | {"max_epochs": 1}, "dpo": SFT_LIKE, "rl": RL}
    stages = {"base": train_base, "midtrain": midtrain, "sft": finetune, "dpo": learn_preferences, "rl": reinforce}
    told: list[str] = []
    with prepared(tmp_path, **sections) as work:
        work.tell = lambda stage, done, total, row: told.append(f"{stage}: {row['note']}") if "note" in row else None
        for train in stages.values():
            train(work)
        rollouts = len(work.store.rollouts("rl"))
        steps = {stage: len(work.run.metrics(stage).rows()) for stage in stages}
    assert [line.partition(" checks passed")[0] for line in told] == [
        "base: pre-flight: 8", "midtrain: pre-flight: 8", "sft: pre-flight: 8", "dpo: pre-flight: 9", "rl: pre-flight: 9"
    ]  # fmt: skip
    assert rollouts == 16  # the glance at four problems is not stored
    for stage in stages:
        record = json.loads((tmp_path / "tiny" / "preflight" / f"{stage}.json").read_text())
        assert record["passed"]
        assert len(record["batches"]) == (1 if stage == "rl" else min(3, steps[stage]))
        shown = record["batches"][0]["shown"][0]
        assert len(shown["tokens"]) == shown["num_tokens"]
        assert [trained for _, trained in shown["tokens"]].index(True) == shown["first_target"]
        isolation = next(check for check in record["checks"] if check["name"] == "isolation")
        assert "all others by 0 (" in isolation["says"]


SFT_LIKE = {"optimizer": OPTIMIZER, "epochs": 1, "batch_pairs": 4}


def test_a_check_moves_nothing(tmp_path: Path) -> None:
    """With and without the check, with and without alarms: the same weights."""
    found = []
    for name, health in (("with", {}), ("without", {"preflight": False, "alarms": False})):
        with prepared(tmp_path / name, health=health, rl=RL) as work:
            finetune(work)
            reinforce(work)
            found.append({name: weight.clone() for name, weight in work.model.state_dict().items()})
            assert (work.run.folder / "preflight").exists() == (name == "with")
    assert all(torch.equal(weight, found[1][name]) for name, weight in found[0].items())


def test_a_resumed_stage_is_not_checked_again(tmp_path: Path) -> None:
    with prepared(tmp_path) as work:
        finetune(work)
        path = work.run.folder / "preflight" / "sft.json"
        before = path.stat().st_mtime_ns
        shifted = replace(flatten(documents(work)), rows=flatten(documents(work)).rows.roll(1))
        work.check("sft", Laid([shifted]), SETTINGS, 3)  # type: ignore[arg-type]  # it would not pass
    assert path.stat().st_mtime_ns == before


# -- the model that a recipe starts from ---------------------------------------------------------------------------------


def test_a_start_that_cannot_be_asked_is_refused_before_it_is_measured(tmp_path: Path) -> None:
    """Each in one line; a whole one passes."""
    lossy = templated(tmp_path / "lossy", "{% for m in messages %}<user>{{ m['content'][:3] }}{% endfor %}<assistant>")
    failing = templated(tmp_path / "failing", "{{ raise_exception('no') }}")
    for number, (words, says) in enumerate(
        (
            (lossy, "template: the chat template leaves out (some of) the question 'is "),
            (failing, "template: "),
            (Tokenizer(tokenizer()._wrapped, [9999]), "stop tokens: the checkpoint's settings end a completion with token 9999"),
        )
    ):
        with prepared(tmp_path / str(number), words) as work, pytest.raises(RunError) as error:
            check_start(work)
        assert f"fails the check before the start: {says}" in str(error.value)
        assert "\n" not in str(error.value)
    with prepared(tmp_path / "whole") as work:
        check_start(work)
        with torch.no_grad():
            work.model.norm.weight[0] = float("nan")
        with pytest.raises(RunError, match="log-probs: the model gives log-probs that are not finite"):
            check_start(work)


# -- a look ------------------------------------------------------------------------------------------------------------


def test_a_look_trains_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    with prepared(tmp_path, rl=RL, dpo=SFT_LIKE | {"own_problems": 4}) as work:
        before = {name: weight.clone() for name, weight in work.model.state_dict().items()}
        look = Looking.over(work)
        record = look.look("sft", [], lambda: finetune(look))
        group = look.look("rl", ["sft"], lambda: reinforce(look))
        with pytest.raises(RunError, match="dpo first samples 32 rollouts of its own"):
            look.look("dpo", ["sft"], lambda: learn_preferences(look))
        assert all(torch.equal(weight, before[name]) for name, weight in work.model.state_dict().items())
        assert work.store.rollouts("rl") == []
        assert not (work.run.folder / "selections").exists() or not list((work.run.folder / "selections").iterdir())
    assert record["passed"]
    assert group["passed"]
    assert {"advantage", "sampler_logprob"} <= group["batches"][0]["shown"][0].keys()
    assert (record["weights"], group["weights"]) == ("as the recipe starts them", "as sft left them")
    render_xray(record, Console())
    out = capsys.readouterr().out
    assert "<assistant>⟦\\boxed{" in out
    assert "}<eos>⟧" in out
    assert "WRONG" not in out


# -- what is wrong does not start --------------------------------------------------------------------------------------


def test_a_document_that_begins_too_early_or_too_late(tmp_path: Path) -> None:
    with prepared(tmp_path) as work:
        early = [replace(d, first_target=d.first_target - 1) for d in documents(work)]
        says = refused(work, likelihood(work, early))
        assert says.startswith("mask: what is masked should be the prompt, up to '<assistant>', but it ends in '<user>is 0 odd'")
        assert "(tokens: 1 of the prompt is trained)" in says
        late = [replace(d, first_target=d.first_target + 2) for d in documents(work)]
        assert "(tokens: 2 of the completion is masked)" in refused(work, likelihood(work, late))
        other = [replace(d, ids=(d.ids[1], *d.ids[1:])) for d in documents(work)]
        assert refused(work, likelihood(work, other)).startswith("mask: a document begins with none of the prompts")


def test_a_mask_is_compared_with_the_prompt_and_not_with_how_it_ends(tmp_path: Path) -> None:
    """Without a template a prompt ends in a line break, and so does a first line of the completion."""
    words = plain_words()
    assert words.opening == "\n"
    with prepared(tmp_path, words) as work:
        found = work.documents([Example(p, "", f"so\n\\boxed{{{p.reference}}}") for p in parities(8)])
        late = [replace(d, first_target=d.first_target + len(words.encode("so\n"))) for d in found]
        assert words.written(late[0].prompt).endswith("so\n")
        assert "of the completion is masked" in refused(work, likelihood(work, late))
        assert preflight(work, "sft", likelihood(work, found), SETTINGS)["passed"]


def plain_words() -> Tokenizer:
    """The tiny tokenizer without its chat template."""
    backend = Backend.from_str(tokenizer()._wrapped.backend_tokenizer.to_str())
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>"))


def test_everything_is_trained_where_the_recipe_says_so(tmp_path: Path) -> None:
    """With train_on_prompt the prompt is not masked; a completion that goes on behind its end is still seen."""
    settings = MidtrainConfig.model_validate({"optimizer": OPTIMIZER, "train_on_prompt": True})
    with prepared(tmp_path) as work:
        whole = [replace(d, first_target=1) for d in documents(work)]
        assert preflight(work, "midtrain", likelihood(work, whole), settings)["passed"]
        twice = [replace(d, ids=(*d.ids, d.ids[-1])) for d in whole]
        assert refused(work, likelihood(work, twice), settings, "midtrain").startswith("end token: a completion goes on after")
        says = refused(work, likelihood(work, documents(work)), settings, "midtrain")
        assert says.startswith("mask: train_on_prompt is on, but a document is learned from token ")


def test_a_document_without_its_end(tmp_path: Path) -> None:
    with prepared(tmp_path) as work:
        cut = [replace(d, ids=d.ids[:-1]) for d in documents(work)]
        assert refused(work, likelihood(work, cut)).startswith("end token: a document ends in token ")
        twice = [replace(d, ids=(*d.ids, d.ids[-1])) for d in documents(work)]
        assert refused(work, likelihood(work, twice)).startswith("end token: a completion goes on after a stop token")


def test_targets_that_are_shifted(tmp_path: Path) -> None:
    with prepared(tmp_path) as work:
        flat = flatten(documents(work))
        shifted = replace(flat, rows=flat.rows.roll(1))
        assert "targets are shifted" in refused(work, Laid([shifted]))
        copied = replace(flat, targets=flat.ids[flat.rows])  # learns to say again what it reads
        assert refused(work, Laid([copied])).startswith("targets: step 1, micro-batch 0: document 0 learns token")


def test_neighbours_that_see_each_other(tmp_path: Path) -> None:
    """One long row under the attention of a single document: first with positions that run on, then with right ones."""
    with prepared(tmp_path) as work:
        flat = flatten(documents(work)[:3])
        one = lay_out([flat.num_tokens])
        assert "document 1: its positions do not begin at 0 where it begins" in refused(work, Laid([replace(flat, layout=one)]))
        right = replace(one, positions=flat.layout.positions, lengths=flat.layout.lengths)
        says = refused(work, Laid([replace(flat, layout=right)]))
        assert "attention reads row 0 of the batch as no document of it: documents would see each other" in says
        gathered = replace(flat.layout, groups=one.groups, inverse=one.inverse)  # only what is used without the kernel is wrong
        assert "attention gathers other documents than the batch has" in refused(work, Laid([replace(flat, layout=gathered)]))
        swapped = replace(flat.layout, inverse=flat.layout.inverse.flip(0))
        assert "is taken from another token's place" in refused(work, Laid([replace(flat, layout=swapped)]))


@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_model_whose_documents_see_each_other(tmp_path: Path, is_reversed: bool) -> None:
    """The layout is right, and the model does not keep to it: a document sees those before it, or those behind it."""
    with prepared(tmp_path) as work:
        forward = work.model.forward

        def leaking(ids: torch.Tensor, layout: Any) -> torch.Tensor:
            whole = replace(lay_out([len(ids)]), positions=layout.positions)
            return forward(ids.flip(0), whole).flip(0) if is_reversed else forward(ids, whole)

        work.model.forward = leaking  # type: ignore[method-assign]
        says = refused(work, likelihood(work, documents(work)[:3]))
    assert says.startswith("isolation: changing one document moves logits before it or of its neighbours by ")
    assert "they see each other (measured on 3 documents" in says


def test_long_documents_are_measured_beside_each_other(tmp_path: Path) -> None:
    """Each longer than what is measured of a batch: parts of them stand beside each other."""
    with prepared(tmp_path) as work:
        long = [replace(d, ids=(*d.ids[:-1], *[5 + i % 9 for i in range(1100)], d.ids[-1])) for d in documents(work)]
        work.model = work.sampler.engine.model = initialise(replace(work.model.config, max_positions=2048), 0)
        record = preflight(work, "sft", likelihood(work, long), SETTINGS)
    assert record["passed"], record["checks"]
    assert "all others by 0 (measured on 4 documents, 1,020 tokens)" in record["checks"][-1]["says"]


def test_a_model_that_does_not_read_its_documents(tmp_path: Path) -> None:
    with prepared(tmp_path) as work:
        forward = work.model.forward
        work.model.forward = lambda ids, layout: forward(torch.full_like(ids, 5), layout)  # type: ignore[method-assign]
        says = refused(work, likelihood(work, documents(work)))
    assert says.startswith("isolation: changing a document's tokens changes nothing at all: its inputs do not reach the model")


def test_an_engine_that_passes_the_trained_stop_token(tmp_path: Path) -> None:
    words = tokenizer()
    other = words.encode("7")[0]
    with prepared(tmp_path, stops=[other]) as work:
        says = refused(work, likelihood(work, documents(work)))
    assert says.startswith(
        f"stop tokens: token {words.stop_id} '<eos>' is trained as the end, but the sampler does not stop at it"
    )


def test_a_stop_token_that_no_vocabulary_holds(tmp_path: Path) -> None:
    words = Tokenizer(tokenizer()._wrapped, [9999])
    with prepared(tmp_path, words) as work:
        says = refused(work, likelihood(work, documents(work)))
    assert says.startswith("stop tokens: the checkpoint's settings end a completion with token 9999")


def templated(folder: Path, template: str) -> Tokenizer:
    """The tiny tokenizer, saved, its template replaced, and loaded as a user would."""
    folder.mkdir()
    tokenizer().save(folder)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return Tokenizer.load(folder)


def test_a_template_that_loses_the_question(tmp_path: Path) -> None:
    lossy = "{% for m in messages %}<user>{{ m['content'][:3] }}{% endfor %}<assistant>"
    with prepared(tmp_path, templated(tmp_path / "words", lossy)) as work:
        says = refused(work, likelihood(work, documents(work)))
    assert says.startswith("template: the chat template leaves out (some of) the question 'is ")


def test_a_template_that_opens_no_turn(tmp_path: Path) -> None:
    """Neither one without any header, nor ChatML whose author forgot add_generation_prompt."""
    bare = "{% for m in messages %}<user>{{ m['content'] }}{% endfor %}"
    named = "{% for m in messages %}<user>{{ m['role'] }} {{ m['content'] }}<eos>\n{% endfor %}"
    for number, source in enumerate((bare, named)):
        with prepared(tmp_path / str(number), templated(tmp_path / f"words{number}", source)) as work:
            says = refused(work, likelihood(work, documents(work)))
        assert says.startswith("template: the chat template opens no assistant's turn after the question")


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{% if m['role'] == 'user' %}<user>{{ m['content'] }}<assistant>{% else %} {{ m['content'] }}<eos>"
        "{% endif %}{% endfor %}",  # as Mistral's: the question's end is the answer's beginning
        "{% for m in messages %}{% if m['role'] == 'user' %}<user>{{ m['content'] }}{% else %}<assistant><think></think>"
        "{{ m['content'] }}<eos>{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant><think>\n{% endif %}",  # as R1's
        "{% for m in messages %}{% if m['role'] != 'user' %}{{ raise_exception('no') }}{% endif %}{{ m['content'] }}{% endfor %}",
    ],
)
def test_templates_that_open_a_turn_in_their_own_way_pass(tmp_path: Path, source: str) -> None:
    with prepared(tmp_path, templated(tmp_path / "words", source)) as work:
        assert preflight(work, "sft", likelihood(work, documents(work)), SETTINGS)["passed"]


def test_a_tokenizer_that_cannot_spell_the_answer(tmp_path: Path) -> None:
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<eos>", "<assistant>", "is", "odd", *map(str, range(8))])}
    backend = Backend(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    wrapped = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>")
    wrapped.add_special_tokens({"additional_special_tokens": ["<assistant>"]})
    wrapped.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}<assistant>"
    with prepared(tmp_path, Tokenizer(wrapped)) as work:
        says = refused(work, likelihood(work, documents(work)))  # \boxed{1} is no word of it
    assert says.startswith("vocabulary: the tokenizer cannot spell some text: token 0 '<unk>'")


def test_an_end_of_text_that_is_named_as_unknown_is_no_unknown_text(tmp_path: Path) -> None:
    """GPT-2's vocabulary and its heirs: unk_token is <|endoftext|>, which a prompt may begin with, and bytes spell everything."""
    words = tokenizer()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=Backend.from_str(words._wrapped.backend_tokenizer.to_str()), eos_token="<eos>", unk_token="<pad>"
    )
    wrapped.chat_template = "{% for m in messages %}<pad>{{ m['content'] }}{% endfor %}<assistant>"
    with prepared(tmp_path, Tokenizer(wrapped)) as work:
        found = documents(work)
        assert wrapped.unk_token_id in found[0].ids
        assert preflight(work, "sft", likelihood(work, found), SETTINGS)["passed"]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_weights_that_are_not_numbers(tmp_path: Path, value: float) -> None:
    with prepared(tmp_path) as work:
        with torch.no_grad():
            work.model.norm.weight[0] = value
        before = work.model.norm.weight.clone()
        with pytest.raises(RunError, match="log-probs: the model gives log-probs that are not finite"):
            work.fit("sft", likelihood(work, documents(work)), SETTINGS, 1)
        assert torch.equal(work.model.norm.weight.nan_to_num(7), before.nan_to_num(7))


def pairs(work: Workspace) -> list[DocumentPair]:
    chosen = documents(work)
    rejected = work.documents([Example(p, "", f"\\boxed{{{1 - int(p.reference)}}}") for p in parities(8)])
    return [DocumentPair(*both) for both in zip(chosen, rejected, strict=True)]


def preference(work: Workspace, found: list[DocumentPair], reference: torch.Tensor) -> Preference:
    return Preference(work.model, found, lambda: iter([list(range(len(found)))] * 9), DpoConfig(), reference)


def test_a_reference_that_is_not_the_start(tmp_path: Path) -> None:
    with prepared(tmp_path) as work:
        other = policy()
        with torch.no_grad():
            other.output_weight.mul_(1.5)
        wrong = reference_logprobs(other, pairs(work))
        says = refused(work, preference(work, pairs(work), wrong), DpoConfig(), "dpo")
        assert says.startswith("pairs: the reference's log-probs are ")
        missing = reference_logprobs(work.model, pairs(work))
        missing[1, 0] = float("nan")  # one pair of several
        assert refused(work, preference(work, pairs(work), missing), DpoConfig(), "dpo").startswith("pairs: the reference's ")
        same = [DocumentPair(p.chosen, p.chosen) for p in pairs(work)]
        right = reference_logprobs(work.model, same)
        says = refused(work, preference(work, same, right), DpoConfig(), "dpo")
        assert says.startswith("pairs: a pair's chosen and rejected rollout are the same")


class Drawn:
    """A sampling whose log-probs were recorded at another temperature than it says."""

    def __init__(self, work: Workspace):
        self.work = work

    def sample(self, step: int) -> Sampled:
        from headway.train.likelihood import document_logprobs

        found = documents(self.work)
        with torch.no_grad():
            recorded = [tuple(document_logprobs(self.work.model, flatten([d]), 0.6).tolist()) for d in found]
        signs = [1.0, -1.0] * 4
        return Sampled([Trajectory(d, lp, sign) for d, lp, sign in zip(found, recorded, signs, strict=True)], 1.0, {})


def test_a_sampler_that_records_what_the_trainer_does_not_compute(tmp_path: Path) -> None:
    config = RlConfig.model_validate(RL)
    with prepared(tmp_path, rl=RL) as work:
        says = refused(work, PolicyGradient(work.model, Drawn(work), config), config, "rl")  # type: ignore[arg-type]
    assert says.startswith("sampler: the sampler recorded log-probs up to ")
    assert "(budget 0.001)" in says


def test_rollouts_are_checked_where_every_group_agrees(tmp_path: Path) -> None:
    """Rewards that are all alike: RL would learn nothing in the step, and what it samples is looked at all the same."""
    with prepared(tmp_path, rl=RL) as work:
        work.sampler._verifier = AllWrong()
        look = Looking.over(work)
        record = look.look("rl", ["sft"], lambda: reinforce(look))
    assert record["passed"]
    assert record["batches"][0]["documents"] == 16
    says = {check["name"]: check["says"] for check in record["checks"]}
    assert says.keys() >= {"mask", "end token", "vocabulary", "log-probs", "sampler", "isolation"}
    assert says["sampler"].endswith("; every group that was sampled agrees, so no token has an advantage")


class AllWrong:
    """A verifier to which nothing is right."""

    def verdicts(self, found: Sequence[tuple[Any, Rollout]]) -> list[Verdict]:
        return [Verdict(rollout.id, "rules@1", W) for _, rollout in found]


def test_a_long_batch_is_read_in_part(tmp_path: Path) -> None:
    """Micro-batches are read until 65,536 tokens are; the record counts all."""
    with prepared(tmp_path) as work:
        document = documents(work)[0]
        many = flatten([replace(document, ids=(*document.ids[:-1], i + 4, document.ids[-1])) for i in range(4)])
        count = 65_536 // many.num_tokens
        record = preflight(work, "sft", Laid([many] * (count + 9)), SETTINGS)  # type: ignore[arg-type]
    assert record["batches"][0]["read"] == 4 * count
    assert record["batches"][0]["documents"] == 4 * (count + 9)
    assert record["passed"], record["checks"]


def test_documents_are_read_back_as_they_were_laid() -> None:
    from headway.train.xray import documents_of

    found = [Document((5, 9, 31, 1), 2), Document((5, 9, 7, 1), 2), Document((5, 7), 1), Document((8, 8, 8), 1)]
    flat: Flat = flatten(found)
    assert documents_of(flat) == (found, [])
