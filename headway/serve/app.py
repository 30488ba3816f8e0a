"""The server's routes: a request is read, tokenised, handed to the batcher, and answered whole or as a stream.

    GET /health   GET /v1/models   POST /v1/chat/completions   POST /v1/completions

Every route checks the Host (a page elsewhere must not reach us under a name of its own) and the key, where there is one. There
are no CORS headers. A client that goes away takes its samples out of the batch. It does not know how anything is sampled.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from headway.engine.sampling import sample_key
from headway.errors import HeadwayError
from headway.model.tokenizer import Tokenizer
from headway.serve.batcher import Batcher, Broken, Busy, Drawn, Ended, Job
from headway.serve.shapes import FINISH, Sample, Shape, event
from headway.serve.wanted import Refusal, Wanted, read
from headway.serve.wording import Wording
from headway.types import Request as EngineRequest

MOST_BODY = 8 * 2**20  # bytes
_BODY_SECONDS = 30.0
Handler = Callable[[Request], Awaitable[Response]]


class Service:
    """What the routes work with. `hosts` are the allowed Host names ("" in it: any); `key` "" asks for none."""

    def __init__(self, name: str, tokenizer: Tokenizer, positions: int, batcher: Batcher, hosts: frozenset[str], key: str):
        self.name, self.tokenizer, self.positions = name, tokenizer, positions
        self.batcher, self._hosts, self._key = batcher, hosts, key

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/health", self._guarded(self._health)),
            Route("/v1/models", self._guarded(self._models)),
            Route("/v1/models/{name:path}", self._guarded(self._model)),
            Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
            Route("/v1/completions", self._guarded(self._text), methods=["POST"]),
        ]
        handlers: Any = {404: _not_found, 405: _not_found}
        return Starlette(routes=routes, exception_handlers=handlers)

    def _guarded(self, handler: Handler) -> Handler:
        """A route that is not for everybody, and whose refusals are JSON."""

        async def checked(request: Request) -> Response:
            try:
                self._check(request)
                return await handler(request)
            except Refusal as refusal:
                headers = {"retry-after": "1"} if refusal.status in (429, 503) else None
                return JSONResponse(refusal.body, refusal.status, headers)
            except ClientDisconnect:
                return Response(status_code=499)

        return checked

    def _check(self, request: Request) -> None:
        hosts = request.headers.getlist("host")
        if "" not in self._hosts and (len(hosts) != 1 or _name(hosts[0]) not in self._hosts):
            raise Refusal("this server is not reached under that Host", status=421)
        if self._key:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode("utf-8", "replace"), self._key.encode()):
                raise Refusal("the API key is missing or wrong", status=401, code="invalid_api_key")

    async def _health(self, _: Request) -> Response:
        own = self.batcher.counts
        told = {"prompt_tokens": own.prompt_tokens, "reused_tokens": own.reused_tokens, "new_tokens": own.new_tokens}
        told |= {"mean_batch": round(own.sequence_steps / max(1, own.steps), 2), "cache_bytes": own.cache_bytes}
        return JSONResponse({"status": "ok", "model": self.name, "at_work": self.batcher.at_work, **told})

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def _model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return JSONResponse(self._card())

    def _card(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": 0, "owned_by": "headway", "max_model_len": self.positions}

    def _check_model(self, name: str) -> None:
        if name != self.name:
            raise Refusal(f"there is no model {name[:80]!r} here; this is {self.name!r}", "model", 404, "model_not_found")

    async def _chat(self, request: Request) -> Response:
        return await self._complete(request, "chat")

    async def _text(self, request: Request) -> Response:
        return await self._complete(request, "text")

    async def _complete(self, request: Request, kind: str) -> Response:
        wanted = read(await _body(request), kind)
        self._check_model(wanted.model)
        prompt = await asyncio.to_thread(self._prompt_ids, wanted)
        room = self.positions - len(prompt)
        if room < max(1, wanted.max_tokens):
            said = (
                f"{len(prompt)} prompt tokens and {wanted.max_tokens or 1} new ones exceed the model's {self.positions} positions"
            )
            raise Refusal(said, "max_tokens" if room >= 1 else kind_param(kind), code="context_length_exceeded")
        seed = secrets.randbits(63) if wanted.seed is None else wanted.seed
        keys = tuple(sample_key(seed, "serve", index) for index in range(wanted.n))
        asked = EngineRequest(
            prompt,
            keys,
            wanted.max_tokens or room,
            wanted.temperature,
            wanted.top_p,
            wanted.top_k,
            wanted.min_p,
            wanted.repetition_penalty,
            stop_strings=wanted.stops,
        )
        try:
            job = self.batcher.submit(asked, wants_tokens=wanted.stream)
        except Busy:
            raise Refusal("too many requests are waiting", status=429, code="queue_full") from None
        answer = Answering(job, wanted, self.tokenizer.decode, self.batcher, self.tokenizer.stop_ids)
        shape = Shape(kind, self.name, lambda token: self.tokenizer.decode([token]))
        if wanted.stream:
            return StreamingResponse(_stream(answer, shape, wanted, len(prompt)), media_type="text/event-stream")
        await _unless_gone(answer.all(), request, answer)
        return JSONResponse(shape.whole(answer.samples, len(prompt), wanted.logprobs))

    def _prompt_ids(self, wanted: Wanted) -> tuple[int, ...]:
        try:
            if wanted.messages:
                return self.tokenizer.prompt_ids(wanted.messages)
            ids = wanted.prompt if isinstance(wanted.prompt, tuple) else tuple(self.tokenizer.encode(wanted.prompt))
        except HeadwayError as error:
            raise Refusal(str(error), "messages" if wanted.messages else "prompt") from None
        if any(token >= self.tokenizer.size for token in ids):
            raise Refusal(f"prompt holds token ids from {self.tokenizer.size} on, which are none", "prompt")
        return ids


class Answering:
    """The samples of one job as their tokens come: text, log-probs and ends. `ends` are the stop tokens, which are no text."""

    def __init__(self, job: Job, wanted: Wanted, decode: Callable[..., str], batcher: Batcher, ends: Collection[int]):
        self._job, self._batcher, self._decode, self._ends, self._stops = job, batcher, decode, ends, wanted.stops
        self.samples = [Sample(index) for index in range(wanted.n)]
        self._wordings = [Wording(decode, wanted.stops) for _ in range(wanted.n)]

    async def steps(self) -> AsyncIterator[tuple[Sample, str, int]]:
        """(sample, its new text, tokens it had before) whenever one moves on, until all have ended. Raises Refusal (500)."""
        try:
            while any(not sample.finish for sample in self.samples):
                for one in await self._job.events.get():
                    if isinstance(one, Broken):
                        raise Refusal(f"sampling broke off: {one.said}", status=500)
                    sample = self.samples[one.index]
                    if not sample.finish:
                        since = len(sample.tokens)
                        yield sample, self._draw(sample, one) if isinstance(one, Drawn) else self._end(sample, one), since
        finally:
            self.drop()

    async def all(self) -> None:
        """Wait for all samples."""
        async for _ in self.steps():
            pass

    def drop(self) -> None:
        """Take what has not ended out of the batch."""
        self._batcher.drop(self._job, list(self._job.open))

    def _draw(self, sample: Sample, drawn: Drawn) -> str:
        sample.tokens.append(drawn.token)
        sample.logprobs.append(drawn.logprob)
        wording = self._wordings[sample.index]
        text = "" if drawn.token in self._ends else wording.add(drawn.token)  # not every stop token is a special one
        sample.text += text
        return text

    def _end(self, sample: Sample, ended: Ended) -> str:
        """The end of a sample; where its tokens were not followed, all of it."""
        completion = ended.completion
        if not self._job.wants_tokens:
            sample.tokens, sample.logprobs = list(completion.token_ids), list(completion.logprobs)
            whole = self._decode([token for token in completion.token_ids if token not in self._ends])
            text = whole[: min((at for stop in self._stops if (at := whole.find(stop)) >= 0), default=len(whole))]
        else:
            text = self._wordings[sample.index].finish()
        sample.text += text
        sample.finish = FINISH[completion.stop_reason]
        return text


async def _stream(answer: Answering, shape: Shape, wanted: Wanted, prompt_tokens: int) -> AsyncIterator[str]:
    """The events of a stream."""
    try:
        for sample in answer.samples:
            yield shape.piece(sample, "", 0, False, is_first=True)
        since = [0] * len(answer.samples)
        async for sample, text, _ in answer.steps():
            if text or sample.finish:  # tokens without text yet wait for the next piece
                yield shape.piece(sample, text, since[sample.index], wanted.logprobs)
                since[sample.index] = len(sample.tokens)
        if wanted.include_usage:
            yield shape.closing(answer.samples, prompt_tokens)
        yield "data: [DONE]\n\n"
    except Refusal as refusal:
        yield event(refusal.body)
    finally:
        answer.drop()


async def _unless_gone(work: Any, request: Request, answer: Answering) -> None:
    """Wait for `work`; where the client leaves first, drop it."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        await working
    finally:
        for one in (working, leaving):
            one.cancel()
        answer.drop()


async def _body(request: Request) -> bytes:
    """The body, if it is JSON, small enough and here in time."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise Refusal("the Content-Type should be application/json", status=415)
    whole = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                whole += chunk
                if len(whole) > MOST_BODY:
                    raise Refusal(f"the body is larger than {MOST_BODY} bytes", status=413)
    except TimeoutError:
        raise Refusal("the body did not come in time", status=408) from None
    return bytes(whole)


async def _not_found(request: Request, error: Any) -> Response:
    said = "there is no such path" if error.status_code == 404 else "not with this method"
    return JSONResponse(
        Refusal(f"{said}: {request.method} {request.url.path[:100]}", status=error.status_code).body, error.status_code
    )


def _name(host: str) -> str:
    """A Host header without its port."""
    return (host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]).lower()


def kind_param(kind: str) -> str:
    """The parameter that holds the prompt."""
    return "messages" if kind == "chat" else "prompt"
