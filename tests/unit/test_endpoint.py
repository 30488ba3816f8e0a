"""The client of OpenAI-compatible servers against one that fails as told: what is tried again, and what stops the run."""

import asyncio
import json
from contextlib import aclosing

import pytest
from flaky_server import FlakyServer, completion, good, text_for

from headway.config import EndpointConfig
from headway.endpoint.answer import Answer, read
from headway.endpoint.client import Ask, Endpoint, api_key, is_loopback
from headway.endpoint.faults import Fault, backoff, message, refusal, retry_after
from headway.endpoint.meter import Meter
from headway.endpoint.pace import Pace
from headway.errors import ConfigError, EndpointError

PROMPT = [{"role": "user", "content": "How much?"}]
QUICK = {"max_wait_seconds": 0.02, "max_tries": 3, "read_seconds": 5}


def config(server: FlakyServer, **more) -> EndpointConfig:
    return EndpointConfig(**({"base_url": server.url, "model": "m"} | QUICK | more))


def asked(settings: EndpointConfig, count: int = 1, meter: Meter | None = None):
    """The answers by key to `count` requests with seeds 0, 1, ...; the endpoint; and the error at the end, if any."""
    found: dict[str, Answer] = {}

    async def work():
        async with Endpoint(settings, meter) as endpoint:
            try:
                async for ask, answer in endpoint.complete(Ask(f"p/{i}", PROMPT, {"seed": i}) for i in range(count)):
                    assert ask.key not in found
                    found[ask.key] = answer
            except EndpointError as error:
                return endpoint, error
            return endpoint, None

    endpoint, error = asyncio.run(work())
    return found, endpoint, error


def status(code: int, body: bytes = b'{"error": {"message": "told so"}}', **headers: str):
    return code, {name.replace("_", "-"): value for name, value in headers.items()}, body


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (status(429), "http 429"),
        (status(503, retry_after="0"), "http 503"),
        (status(500), "http 500"),
        (status(408), "http 408"),
        (status(409), "http 409"),
        ((200, {}, b"<html>"), "malformed"),
        ((200, {}, b"[1]"), "malformed"),
        ((200, {}, b"[" * 50_000), "malformed"),
        ((200, {}, b'{"choices": []}'), "malformed"),
        ((200, {}, b'{"error": {"message": "overloaded"}}'), "malformed"),
        (good(None), "malformed"),
        (good("cut", finish=None), "malformed"),
        (good("cut", finish="abort"), "malformed"),
    ],
)
def test_what_may_pass_is_tried_again(fault, kind):
    with FlakyServer(script=[fault, fault, good("4")]) as server:
        found, endpoint, error = asked(config(server))
        assert (found["p/0"].state, found["p/0"].text, found["p/0"].tries) == ("answered", "4", 3)
        assert (dict(endpoint.faults), error, len(server.requests)) == ({kind: 2}, None, 3)
    with FlakyServer(script=[fault] * 4) as server:  # and after max_tries it has failed, for this call
        found, endpoint, error = asked(config(server))
        assert (found["p/0"].state, found["p/0"].reason, found["p/0"].tries, error) == ("failed", kind, 3, None)


@pytest.mark.parametrize("fault", ["drop", "drop mid-body", "stall"])
def test_broken_and_endless_connections_are_tried_again(fault):
    with FlakyServer(rate=1.0, faults=[fault]) as server:
        found, endpoint, _ = asked(config(server, total_seconds=0.3))
        assert found["p/0"].reason == ("timeout" if fault == "stall" else "connection")
        assert endpoint.faults.total() == 3
    with FlakyServer(rate=1.0, faults=["trickle"]) as server:
        assert asked(config(server))[0]["p/0"].text == text_for("How much?", 0)


def test_no_server_at_all_fails_in_one_line():
    with FlakyServer() as server:
        gone = config(server)
    found, _, error = asked(gone, count=500)
    assert len(found) < 250
    assert {answer.reason for answer in found.values()} == {"connection"}
    assert "20 requests in a row failed (the last: connection" in str(error)


def test_silence_is_a_timeout():
    with FlakyServer(seconds=3.0, seed=1) as server:
        found, _, _ = asked(config(server, read_seconds=0.05, max_tries=1))
        assert found["p/0"].reason == "timeout"


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_wrong_request_is_not_tried_again_and_the_others_go_on(code):
    with FlakyServer(script=[status(code)]) as server:
        found, _, error = asked(config(server, concurrency=1), count=3)
        assert error is None
        assert [found[f"p/{i}"].state for i in range(3)] == ["failed", "answered", "answered"]
        assert (found["p/0"].reason, found["p/0"].said, found["p/0"].tries) == (f"http {code}", "told so", 1)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (status(401), "refuses the API key (http 401: told so)"),
        (status(402), "wants to be paid"),
        (status(403), "refuses this key"),
        (status(404), "does not know this model or path"),
        (status(429, b'{"error": {"code": "insufficient_quota"}}'), "has no quota left"),
        (status(307, location="http://evil.example/v1"), "redirects to http://evil.example/v1, which is not followed"),
    ],
)
def test_what_concerns_all_requests_stops_the_run(fault, says):
    with FlakyServer(script=[None, None, fault], seconds=0.0) as server:
        found, _, error = asked(config(server, concurrency=1), count=100)
        assert says in str(error)
        assert "\n" not in str(error)
        assert len(server.requests) == 3
        assert [found[f"p/{i}"].state for i in range(len(found))] == ["answered", "answered", "failed"]


def test_content_that_is_refused_is_final():
    refusals = [
        good("x", finish="content_filter"),
        good(None, refusal="I will not"),
        good(None, finish="tool_calls"),
        good("\ud800"),
    ]
    with FlakyServer(script=refusals) as server:
        found, _, _ = asked(config(server, concurrency=1), count=4)
        reasons = [(found[f"p/{i}"].state, found[f"p/{i}"].reason) for i in range(4)]
        names = ("content_filter", "refusal", "tool_calls", "not Unicode")
        assert reasons == [("rejected", name) for name in names]


def test_an_answer_that_is_too_large_is_not_read_to_its_end():
    with FlakyServer(script=[good("x" * 3_000_000)]) as server:
        found, _, _ = asked(config(server, max_answer_mb=1.0))
        assert (found["p/0"].state, found["p/0"].reason) == ("failed", "too large")


def test_the_key_goes_along_and_is_never_told(monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "sk-CANARY")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-OTHER")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-CANARY")
    wrong = status(401, b'{"error": {"message": "Incorrect API key provided: sk-CANARY"}}')
    with FlakyServer(script=[None, wrong]) as server:
        found, _, error = asked(config(server, api_key_env="TEACHER_KEY", concurrency=1), count=2)
        assert server.requests[0]["headers"]["authorization"] == "Bearer sk-CANARY"
        assert "org-CANARY" not in str(server.requests)
        assert "***" in str(error)
        assert "CANARY" not in f"{error} {found}"
    with FlakyServer() as server:  # OPENAI_API_KEY is for https servers: not for whatever listens here
        asked(config(server))
        assert "sk-OTHER" not in str(server.requests)
    assert api_key(EndpointConfig(base_url="https://api.example/v1", model="m")) == "sk-OTHER"
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY should hold"):
        api_key(EndpointConfig(base_url="https://api.example/v1", model="m"))
    assert api_key(EndpointConfig(base_url="https://localhost/v1", model="m")) == ""
    monkeypatch.setenv("TEACHER_KEY", "two words")
    with pytest.raises(ConfigError, match="no API key") as caught:
        api_key(EndpointConfig(base_url="http://a/v1", model="m", api_key_env="TEACHER_KEY"))
    assert "two words" not in str(caught.value)


def test_the_body_holds_settings_and_extras():
    with FlakyServer() as server:
        extra = {"top_k": 20, "seed": None}
        asked(config(server, extra=extra))
        body = server.requests[0]
        assert (body["model"], body["top_k"], body["messages"]) == ("m", 20, PROMPT)
        assert "seed" not in body
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.6, 0.95, 32_768)
        assert body["headers"]["accept-encoding"] == "identity"


def test_many_at_once_and_each_comes_back_once():
    with FlakyServer(rate=0.3, faults=["429", "500", "drop", "not json", "no choices"], seed=3) as server:
        found, endpoint, _ = asked(config(server, concurrency=16, max_tries=12), count=200)
        assert {key: answer.text for key, answer in found.items()} == {f"p/{i}": text_for("How much?", i) for i in range(200)}
        assert sum(answer.tries for answer in found.values()) == 200 + endpoint.faults.total() == len(server.requests)
        assert 1 < server.most_in_flight <= 16
        assert endpoint.meter.answered == 200


def test_the_cap_on_cost_ends_the_run_and_a_higher_one_goes_on():
    # 9 prompt tokens at 1 and text_for's 109 completion tokens at 10 for a million: 1,099e-6 a request
    prices = {"prompt_price": 1.0, "completion_price": 10.0, "concurrency": 4}
    with FlakyServer() as server:
        one = 9e-6 + len(text_for("How much?", 0)) * 1e-5
        found, endpoint, error = asked(config(server, max_cost=5.5 * one, **prices), count=50)
        assert error is None
        assert len(found) == 5
        assert endpoint.stopped.startswith("max_cost = ")
        assert endpoint.meter.cost == pytest.approx(5 * one)
        assert found["p/0"].cost == pytest.approx(one)
        same, _, _ = asked(config(server, max_cost=5.5 * one, **prices), 50, endpoint.meter)
        assert same == {}  # the budget is spent: nothing is sent
        raised = Meter(config(server, max_cost=8.5 * one, **prices), cost=5 * one, answered=5)
        more, _, _ = asked(config(server, max_cost=8.5 * one, **prices), 50, raised)
        assert len(more) == 3
        tokens, endpoint, _ = asked(config(server, max_tokens_total=1000, concurrency=1), count=50)
        assert len(tokens) == 1000 // (9 + len(text_for("How much?", 0)))
        assert endpoint.stopped.startswith("max_tokens_total")
    with pytest.raises(ConfigError, match="max_cost needs"):
        Endpoint(EndpointConfig(base_url="http://127.0.0.1:1/v1", model="m", max_cost=1))


def test_leaving_early_drops_what_is_in_flight():
    async def work(settings: EndpointConfig) -> int:
        async with Endpoint(settings) as endpoint, aclosing(endpoint.complete(Ask(f"p/{i}", PROMPT) for i in range(50))) as all_:
            async for _ in all_:
                break
        return len(asyncio.all_tasks()) - 1

    with FlakyServer() as server:
        assert asyncio.run(work(config(server))) == 0


def test_reading_bodies():
    answer = read(json.dumps(completion("4", reasoning_content="2+2", prompt_tokens=7, completion_tokens=9)).encode(), 40)
    assert answer == Answer("answered", "4", "2+2", "stop", 7, 9)
    thinking = read(json.dumps(completion(None, finish="length", reasoning_content="2+")).encode(), 40)
    assert isinstance(thinking, Answer)
    assert (thinking.text, thinking.reasoning, thinking.finish_reason) == ("", "2+", "length")
    for usage in (None, {}, {"prompt_tokens": -1, "completion_tokens": 2}, {"prompt_tokens": True, "completion_tokens": 2}, [1]):
        uncounted = read(json.dumps(completion("12345678") | {"usage": usage}).encode(), 40)
        assert isinstance(uncounted, Answer)
        assert (uncounted.prompt_tokens, uncounted.completion_tokens, uncounted.is_estimated) == (
            10,
            2,
            True,
        )  # 4 characters each
    for odd in ({"choices": {}}, {"choices": ["x"]}, {"choices": [{"message": 3}]}, completion(["x"]), completion("x", finish=3)):
        assert isinstance(read(json.dumps(odd).encode(), 1), Fault)


def events(
    *deltas, finish: str | None = "stop", usage=None, end: bytes = b"data: [DONE]\n\n"
) -> tuple[int, dict[str, str], bytes]:
    """A scripted stream."""
    rows = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    rows += [{"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}, {"choices": [], "usage": usage}]
    return 200, {}, b": ping\n\n" + b"".join(b"data: " + json.dumps(row).encode() + b"\n\n" for row in rows) + end


def test_a_stream_is_joined_to_the_same_answer():
    usage = {"prompt_tokens": 7, "completion_tokens": 9}
    whole = events(
        {"role": "assistant", "content": ""}, {"reasoning_content": "2+"}, {"reasoning": "2"}, {"content": "4\n"}, usage=usage
    )
    broken = events({"content": "4"}, finish=None, end=b"")
    odd = (200, {}, b"data: 3\n\ndata: [DONE]\n\n")
    failed = (200, {}, b'data: {"error": {"message": "out of memory"}}\n\n')
    with FlakyServer(script=[broken, odd, whole]) as server:
        found, endpoint, _ = asked(config(server, stream=True))
        assert found["p/0"] == Answer("answered", "4\n", "2+2", "stop", 7, 9, tries=3)
        assert dict(endpoint.faults) == {"malformed": 2}
        assert server.requests[0]["stream_options"] == {"include_usage": True}
    with FlakyServer(script=[failed]) as server:
        found, endpoint, _ = asked(config(server, stream=True))
        assert dict(endpoint.faults) == {"malformed": 1}
        assert found["p/0"].text == text_for("How much?", 0)  # a server that does not stream is fine, too


def test_retry_after_and_backoff():
    assert retry_after({"retry-after": "7"}) == 7.0
    assert retry_after({"retry-after": "0.5"}) == 0.5
    assert retry_after({"retry-after-ms": "250", "retry-after": "7"}) == 0.25
    assert retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, now=20.0) == 40.0
    assert retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, now=90.0) == 0.0
    for nonsense in ("", "-1", "soon", "1e9", "9" * 30, "nan"):
        assert retry_after({"retry-after": nonsense}) == 0.0
    waits = [backoff("p/0", tries, 60.0) for tries in range(1, 12)]
    for tries, wait in enumerate(waits, start=1):
        whole = min(60.0, 0.5 * 2 ** (tries - 1))
        assert whole / 2 <= wait <= whole
    assert backoff("p/0", 3, 60.0) == waits[2] != backoff("p/1", 3, 60.0)
    assert refusal(503, {"retry-after": "3"}, "x") == Fault("http 503", "x", again=True, slower=True, wait=3.0)
    bodies = ['{"error": "a\\nb"}', '{"detail": "c"}', '{"message": "d"}', "e", "[1]"]
    assert [message(body) for body in bodies] == ["a b", "c", "d", "e", "[1]"]


def test_retry_after_is_honoured_and_capped():
    with FlakyServer(script=[status(429, retry_after="100"), good("4")]) as server:
        found, _, _ = asked(config(server))  # a wait of 100 s is cut to max_wait_seconds
        assert found["p/0"].tries == 2


def test_the_pace_grows_and_is_cut_once_a_round():
    async def work() -> list[float]:
        pace, limits = Pace(32), []
        tickets = [await pace.enter() for _ in range(8)]
        for ticket in tickets[:4]:
            await pace.leave(ticket or 0, is_slower=False)
        limits.append(pace.limit)  # 8 + 4: doubling a round, at first
        for ticket in tickets[4:]:
            await pace.leave(ticket or 0, is_slower=True)
        limits.append(pace.limit)  # 12 * 0.7: four of one round cut once
        ticket = await pace.enter()
        await pace.leave(ticket or 0, is_slower=False)
        limits.append(pace.limit)  # 8.4 + 1 / 8.4
        for _ in range(50):
            ticket = await pace.enter()
            assert ticket is not None
            await pace.leave(ticket, is_slower=True)
        limits.append(pace.limit)  # never below 1
        await pace.stop()
        assert await pace.enter() is None
        return limits

    assert asyncio.run(work()) == pytest.approx([12.0, 8.4, 8.4 + 1 / 8.4, 1.0])


def test_this_machine_is_known_by_its_names():
    for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "LOCALHOST"):
        assert is_loopback(host)
    for host in ("localhost.example", "10.0.0.1", "0.0.0.0", "127.0.0.1.example", ""):
        assert not is_loopback(host)
