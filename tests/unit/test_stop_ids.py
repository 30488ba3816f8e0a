"""Every token that ends a turn is honoured everywhere: loaded, sampled, evaluated, served, saved again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from phi_like import phi_like
from tiny_sampler import parities

from headway.engine.engine import Engine
from headway.errors import CheckpointError
from headway.model.checkpoint import load_decoder, save_decoder
from headway.model.config import DecoderConfig
from headway.model.tokenizer import Tokenizer
from headway.model.transformer import Decoder, initialise
from headway.sample import Plan, Sampler
from headway.types import Request, StopReason
from headway.verify.judge import Verifier


def model_for(tokenizer: Tokenizer, always: int) -> Decoder:
    """A decoder that says the token `always` whatever it is asked: its embedding points where every hidden state does."""
    model = initialise(DecoderConfig(tokenizer.size, 16, 1, 2, 1, 8, 24, tied=False, max_positions=64), 0)
    with torch.no_grad():
        for block in model.blocks:
            for weight in block.parameters():
                if weight.dim() > 1:
                    weight.zero_()  # so that the hidden state is the token's own embedding
        model.embedding.weight.fill_(1.0)
        assert model.output is not None
        model.output.weight.fill_(-1.0)
        model.output.weight[always].fill_(1.0)
    return model


def test_a_turn_ends_with_a_token_that_only_lists_name(tmp_path: Path) -> None:
    ids = phi_like(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    end, text_end = ids["<|end|>"], ids["<|endoftext|>"]
    assert tokenizer.stop_id == end  # what the template ends a turn with, and so what is trained on
    assert tokenizer.stop_ids == (text_end, end)
    assert tokenizer.pad_id == text_end
    assert tokenizer.stop_text == "<|end|>"


def test_the_size_is_what_the_highest_id_needs_though_ids_have_gaps(tmp_path: Path) -> None:
    ids = phi_like(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.size == ids["<|system|>"] + 1
    assert len(tokenizer._wrapped) < tokenizer.size - 15  # counting tokens would leave out the last ones
    tokenizer.check_fits(tokenizer.size)
    with pytest.raises(CheckpointError, match="embedding rows"):
        tokenizer.check_fits(tokenizer.size - 1)


@pytest.mark.parametrize("name", ["<|end|>", "<|endoftext|>"])
def test_each_of_them_ends_a_sample_and_is_no_text(name: str, tmp_path: Path) -> None:
    ids = phi_like(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    engine = Engine(model_for(tokenizer, ids[name]), tokenizer.stop_ids)
    [[completion]] = engine.generate([Request(tokenizer.prompt_ids([{"role": "user", "content": "7"}]), (1,), 20)])
    assert (completion.token_ids, completion.stop_reason) == ((ids[name],), StopReason.STOP)
    with Verifier() as verifier:
        sampler = Sampler(engine, tokenizer, verifier, "", 0)
        [group] = sampler.sample(parities(1), 2, Plan("eval:start", 0, "p", 0.6, 0.95, 20))
    assert [(r.text, r.num_tokens, r.stop_reason) for r in group.rollouts] == [("", 1, StopReason.STOP)] * 2


def test_a_saved_checkpoint_names_all_of_them_and_stops_where_it_did(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    ids = phi_like(first)
    tokenizer = Tokenizer.load(first)
    save_decoder(model_for(tokenizer, 5), second, tokenizer)
    stops = [ids["<|endoftext|>"], ids["<|end|>"]]
    assert json.loads((second / "generation_config.json").read_text())["eos_token_id"] == stops
    again = Tokenizer.load(second)
    assert (again.stop_id, list(again.stop_ids), again.fingerprint) == (tokenizer.stop_id, stops, tokenizer.fingerprint)
    assert load_decoder(second).config.vocab_size == tokenizer.size


def test_transformers_stops_a_saved_checkpoint_at_each_of_them(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    source, saved = tmp_path / "source", tmp_path / "saved"
    source.mkdir()
    ids = phi_like(source)
    tokenizer = Tokenizer.load(source)
    for name in ("<|end|>", "<|endoftext|>"):
        folder = saved / name.strip("<|>")
        folder.mkdir(parents=True)
        save_decoder(model_for(tokenizer, ids[name]), folder, tokenizer)
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        prompt = torch.tensor([tokenizer.prompt_ids([{"role": "user", "content": "7"}])])
        found = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=9)
        assert found[0, prompt.shape[1] :].tolist() == [ids[name]]


def test_a_stop_token_that_is_not_special_is_no_text_of_a_served_answer(tmp_path: Path) -> None:
    """Some checkpoints list an ordinary token in generation_config.json: it ends the answer and is not part of it."""
    import asyncio

    from headway.serve.app import Answering
    from headway.serve.batcher import Batcher
    from headway.serve.wanted import read

    phi_like(tmp_path)
    words = Tokenizer.load(tmp_path)
    plain = words.encode("7")[0]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [plain]}))
    tokenizer = Tokenizer.load(tmp_path)
    assert plain in tokenizer.stop_ids
    engine = Engine(model_for(tokenizer, plain), tokenizer.stop_ids)
    request = Request(tokenizer.prompt_ids([{"role": "user", "content": "?"}]), (1,), 20)
    [[completion]] = engine.generate([request])
    assert completion.stop_reason is StopReason.STOP
    assert tokenizer.decode(completion.token_ids) == "7"

    batcher = Batcher(engine, slots=2, most=4)

    async def answered(wants_tokens: bool) -> str:
        wanted = replace(read(b'{"model": "m", "messages": [{"role": "user", "content": "?"}]}', "chat"), stream=wants_tokens)
        job = batcher.submit(request, wants_tokens)
        answer = Answering(job, wanted, tokenizer.decode, batcher, tokenizer.stop_ids)
        await answer.all()
        return answer.samples[0].text + answer.samples[0].finish

    assert [asyncio.run(answered(wants)) for wants in (True, False)] == ["stop", "stop"]
    batcher.close()
