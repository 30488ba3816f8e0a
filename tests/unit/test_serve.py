"""The server with the real client on a loopback port: what it says is what the engine says, and what it cannot do it refuses."""

import asyncio
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

import openai
import pytest
import uvicorn
from tiny_sampler import policy, tokenizer

from headway.config import EndpointConfig
from headway.endpoint.answer import Answer
from headway.endpoint.client import Ask, Endpoint
from headway.engine.engine import Engine
from headway.engine.flight import Counts
from headway.engine.sampling import sample_key
from headway.errors import ConfigError
from headway.serve.app import MOST_BODY, Service
from headway.serve.batcher import Batcher, Ended
from headway.serve.run import serve
from headway.serve.wording import Wording
from headway.types import Request, StopReason

ASK = [{"role": "user", "content": "is 7 odd"}]
LONG = [{"role": "user", "content": "is 7 odd " * 30}]


class Served:
    """A tiny model behind a live server, and the client on it."""

    def __init__(self, hosts: frozenset[str] = frozenset({"127.0.0.1"}), key: str = "", most: int = 64):
        self.engine = Engine(policy(), tokenizer().stop_ids, decode=tokenizer().decode)
        self.batcher = Batcher(Engine(policy(), tokenizer().stop_ids, decode=tokenizer().decode), slots=8, most=most)
        service = Service("tiny", tokenizer(), 64, self.batcher, hosts, key)
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(service.app(), ws="none", log_level="critical"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._thread.start()
        self._listening = listening
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key or "none", max_retries=0)

    def close(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(10)
        self._listening.close()
        self.batcher.close()

    def direct(self, seed: int, n: int = 1, max_tokens: int = 30, temperature: float = 1.0, top_p: float = 1.0, **more):
        """What the engine alone says to ASK."""
        keys = tuple(sample_key(seed, "serve", index) for index in range(n))
        [found] = self.engine.generate([Request(tokenizer().prompt_ids(ASK), keys, max_tokens, temperature, top_p, **more)])
        return found

    def post(self, body: bytes, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, dict]:
        """Status and JSON of a raw request."""
        headers = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    one = Served()
    yield one
    one.close()


def ask(served: Served, **settings):
    return served.client.chat.completions.create(**({"model": "tiny", "messages": ASK, "seed": 5, "max_tokens": 30} | settings))


def test_chat_is_the_engines_own_sample_with_its_logprobs(served):
    found = ask(served, n=4, temperature=0.8, top_p=0.9, logprobs=True)
    direct = served.direct(5, n=4, temperature=0.8, top_p=0.9)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    for choice, completion in zip(found.choices, direct, strict=True):
        assert choice.message.content == tokenizer().decode(completion.token_ids)
        assert choice.finish_reason == ("stop" if completion.stop_reason is StopReason.STOP else "length")
        told = [token.logprob for token in choice.logprobs.content]
        assert told == pytest.approx(list(completion.logprobs), abs=1e-5)
        assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    tokens = sum(len(completion.token_ids) for completion in direct)
    prompt = len(tokenizer().prompt_ids(ASK))
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (
        prompt,
        tokens,
        prompt + tokens,
    )
    assert {completion.stop_reason for completion in direct} == {StopReason.STOP}
    assert ask(served, max_tokens=2).choices[0].finish_reason == "length"


@pytest.mark.parametrize("options", [{"top_k": 2}, {"min_p": 0.3}, {"repetition_penalty": 1.4}, {"top_k": 5, "min_p": 0.1}])
def test_vllms_options_are_the_engines(served, options):
    found = ask(served, n=4, temperature=3.0, logprobs=True, extra_body=options)
    direct = served.direct(5, n=4, temperature=3.0, **options)
    plain = served.direct(5, n=4, temperature=3.0)
    assert [c.token_ids for c in direct] != [c.token_ids for c in plain]
    for choice, completion in zip(found.choices, direct, strict=True):
        assert choice.message.content == tokenizer().decode(completion.token_ids)
        told = [token.logprob for token in choice.logprobs.content]
        assert told == pytest.approx(list(completion.logprobs), abs=1e-5)


def test_plain_completions_take_text_or_tokens(served):
    prompt = tokenizer().prompt_ids(ASK)
    found = served.client.completions.create(model="tiny", prompt=list(prompt), seed=5, max_tokens=30, logprobs=0)
    [direct] = served.direct(5)
    assert found.choices[0].text == tokenizer().decode(direct.token_ids)
    assert found.choices[0].logprobs.token_logprobs == pytest.approx(list(direct.logprobs), abs=1e-5)
    by_text = served.client.completions.create(model="tiny", prompt="is 7 odd", seed=5)
    assert by_text.usage.prompt_tokens == len(tokenizer().encode("is 7 odd"))
    assert by_text.usage.completion_tokens <= 16  # OpenAI's default
    with pytest.raises(openai.BadRequestError, match="which are none"):
        served.client.completions.create(model="tiny", prompt=[10_000])


def test_a_stream_says_the_same_in_pieces(served):
    whole = ask(served, n=3, logprobs=True)
    texts, told, ends, usage = ["", "", ""], [[], [], []], {}, None
    for chunk in ask(served, n=3, logprobs=True, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            told[choice.index] += [t.logprob for t in choice.logprobs.content] if choice.logprobs else []
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}
    for one, choice in zip(told, whole.choices, strict=True):
        assert one == pytest.approx([t.logprob for t in choice.logprobs.content], abs=1e-5)
    assert usage == whole.usage
    assert all(chunk.usage is None for chunk in ask(served, stream=True))


@pytest.mark.parametrize("stream", [False, True])
def test_our_own_client_gets_the_engines_text(served, stream):
    async def work() -> dict[str, Answer]:
        config = EndpointConfig(base_url=f"http://127.0.0.1:{served.port}/v1", model="tiny", max_tokens=30, stream=stream)
        async with Endpoint(config) as endpoint:
            asks = [Ask(str(seed), ASK, {"seed": seed, "temperature": 1.0, "top_p": 1.0}) for seed in range(8)]
            return {ask.key: answer async for ask, answer in endpoint.complete(asks)}

    found = asyncio.run(work())
    for seed in range(8):
        [direct] = served.direct(seed)
        assert (found[str(seed)].text, found[str(seed)].finish_reason) == (tokenizer().decode(direct.token_ids), "stop")
        assert found[str(seed)].completion_tokens == len(direct.token_ids)


def test_the_same_seed_gives_the_same_text_whatever_else_is_served(served):
    alone = [ask(served, seed=seed).choices[0].message.content for seed in range(12)]
    found: dict[int, str] = {}

    def work(seed: int) -> None:
        found[seed] = ask(served, seed=seed).choices[0].message.content

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(12)] == alone
    assert len(set(alone)) > 1
    without = {ask(served, seed=None, temperature=3.0).choices[0].message.content for _ in range(4)}
    assert len(without) > 1  # no seed: fresh noise each time


def test_a_stop_string_ends_the_text_before_it(served):
    plain = ask(served, seed=5).choices[0].message.content
    assert plain.startswith("\\boxed{")
    for stop in ("oxe", ["zzz", "{"]):
        cut = plain[: plain.index("oxe" if stop == "oxe" else "{")]
        found = ask(served, stop=stop)
        assert (found.choices[0].message.content, found.choices[0].finish_reason) == (cut, "stop")
        [direct] = served.direct(5, stop_strings=("oxe",) if stop == "oxe" else ("zzz", "{"))
        assert direct.stop_string
        assert found.usage.completion_tokens == len(direct.token_ids)  # the engine itself ends there: no token more
        chunks = list(ask(served, stop=stop, stream=True, stream_options={"include_usage": True}))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == cut
        assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
        assert chunks[-1].usage == found.usage
    assert ask(served, stop="zzz").choices[0].message.content == plain


def test_a_prompt_that_was_served_before_is_not_computed_again():
    engine = Engine(policy(), tokenizer().stop_ids)
    engine.model.config = replace(engine.model.config, max_positions=512)
    counts: list[Counts] = []
    prompts = [tuple(tokenizer().encode("is 7 odd " * 9 + f"is {number} odd")) for number in range(3)]

    async def work() -> list[tuple[int, ...]]:
        batcher, found = Batcher(engine, slots=4, most=8), []
        try:
            for number, prompt in enumerate(prompts):
                job = batcher.submit(Request(prompt, (number,), 8), wants_tokens=False)
                while job.open:
                    found += [one.completion.token_ids for one in await job.events.get() if isinstance(one, Ended)]
        finally:
            counts.append(batcher.counts)
            batcher.close()
        return found

    kept = asyncio.run(work())
    expected = Engine(engine.model, tokenizer().stop_ids).generate([Request(p, (n,), 8) for n, p in enumerate(prompts)])
    assert kept == [completion.token_ids for [completion] in expected]
    assert counts[0].reused_tokens > 2 * 32
    assert counts[0].prompt_tokens + counts[0].reused_tokens == sum(map(len, prompts))


def test_wording_holds_back_what_may_be_a_stop_and_half_characters():
    parts = {0: b"a", 1: b"<s", 2: b"to", 3: b"p>", 4: "é".encode()[:1], 5: "é".encode()[1:], 6: b""}
    decode = lambda ids: b"".join(parts[i] for i in ids).decode("utf-8", "replace")  # noqa: E731
    one = Wording(decode, ["<stop>"])
    assert [one.add(i) for i in (0, 4, 5, 1, 2, 0)] == ["a", "", "é", "", "", "<stoa"]
    assert [one.add(i) for i in (1, 2, 3)] == ["", "", ""]
    assert (one.is_stopped, one.finish()) == (True, "")
    other = Wording(decode, ["<stop>"])
    assert [other.add(i) for i in (1, 2)] + [other.finish()] == ["", "", "<sto"]
    half = Wording(decode)
    assert (half.add(4), half.finish()) == ("", "\ufffd")


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"top_logprobs": 3, "logprobs": True}, "top_logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10_000}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": LONG}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),  # the tiny template knows no system turn
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages[0].content"),
        ({"extra_body": {"min_p": 1.5}}, "min_p"),
        ({"extra_body": {"min_p": "0.1"}}, "min_p"),
        ({"extra_body": {"top_k": -2}}, "top_k"),
        ({"extra_body": {"top_k": 2.5}}, "top_k"),
        ({"extra_body": {"repetition_penalty": 0}}, "repetition_penalty"),
        ({"extra_body": {"repetition_penalty": "much"}}, "repetition_penalty"),
        ({"extra_body": {"nonsense": 1}}, "nonsense"),
    ],
)
def test_what_is_not_to_be_had_is_refused_by_name(served, settings, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(served, **settings)
    assert caught.value.param == param
    assert caught.value.message


def test_values_that_ask_for_nothing_are_fine(served):
    more = {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "user": "me", "response_format": {"type": "text"}}
    more["extra_body"] = {"top_k": -1, "min_p": 0, "repetition_penalty": 1}
    content = [{"role": "user", "content": [{"type": "text", "text": "is 7 odd"}]}]
    assert ask(served, messages=content, **more).choices == ask(served).choices
    assert ask(served, max_tokens=None, max_completion_tokens=3).usage.completion_tokens <= 3


def test_models_and_health(served):
    assert [model.id for model in served.client.models.list()] == ["tiny"]
    assert served.client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="this is 'tiny'"):
        served.client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError) as caught:
        ask(served, model="other")
    assert caught.value.code == "model_not_found"
    with urllib.request.urlopen(f"http://127.0.0.1:{served.port}/health", timeout=10) as response:
        told = json.load(response)
    assert told["status"] == "ok"
    assert told["new_tokens"] > 0
    assert told["cache_bytes"] > 0


def test_raw_requests_that_are_wrong_are_json_errors(served):
    good = json.dumps({"model": "tiny", "messages": ASK, "max_tokens": 2}).encode()
    assert served.post(good)[0] == 200
    for body, status in [(b"{", 400), (b"[]", 400), (b"[" * 100_000, 400), (b" " * (MOST_BODY + 1), 413)]:
        assert served.post(body)[0] == status
    assert served.post(good, Content_Type="text/plain")[0] == 415
    assert served.post(good, Host="evil.example")[0] == 421
    assert served.post(good, path="/v1/other")[0] == 404
    status, body = served.post(good.replace(b"is 7 odd", b"\\ud800"))
    assert (status, body["error"]["param"]) == (400, "messages")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://127.0.0.1:{served.port}/v1/completions", timeout=10)
    with caught.value as error:
        assert error.code == 405


def test_a_client_that_leaves_harms_nobody(served):
    for stream in (True, False):
        body = json.dumps({"model": "tiny", "messages": ASK, "n": 100, "temperature": 5, "stream": stream}).encode()
        with socket.create_connection(("127.0.0.1", served.port)) as one:
            lines = ["POST /v1/chat/completions HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
            head = "\r\n".join([*lines, f"Content-Length: {len(body)}"])
            one.sendall(head.encode() + b"\r\n\r\n" + body)
            if stream:
                one.recv(64)
    assert ask(served).choices[0].message.content == tokenizer().decode(served.direct(5)[0].token_ids)
    for _ in range(200):
        if not served.batcher.at_work:
            break
        threading.Event().wait(0.05)
    assert served.batcher.at_work == 0


def test_a_key_is_asked_for_and_a_full_queue_says_so():
    one = Served(key="secret", most=0)  # every request is one too many
    try:
        body = json.dumps({"model": "tiny", "messages": ASK}).encode()
        for given in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Bearer secret2"}):
            status, error = one.post(body, **given)
            assert (status, error["error"]["code"]) == (401, "invalid_api_key")
        with pytest.raises(openai.RateLimitError) as caught:
            ask(one)
        assert caught.value.code == "queue_full"
        assert caught.value.response.headers["retry-after"] == "1"
    finally:
        one.close()


def test_another_address_needs_a_key_or_a_word(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    told: list[str] = []
    with pytest.raises(ConfigError, match="--open"):
        serve("nowhere", "0.0.0.0", 0, "", "", False, 8, 8, told.append)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY should hold"):
        serve("nowhere", "127.0.0.1", 0, "", "NO_SUCH_KEY", False, 8, 8, told.append)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="cannot listen"):
        serve("nowhere", "127.0.0.1", taken.getsockname()[1], "", "", False, 8, 8, told.append)
    assert told == []


def test_what_breaks_in_the_engine_is_a_500_and_the_next_request_is_served():
    one = Served()
    try:
        weights = one.batcher._engine.model
        kept = weights.embedding.weight.data
        weights.embedding.weight.data = kept[:1]  # an index error in the engine's thread
        with pytest.raises(openai.InternalServerError, match="broke off"):
            ask(one)
        weights.embedding.weight.data = kept
        assert ask(one).choices[0].message.content
    finally:
        one.close()
