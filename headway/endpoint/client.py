"""Many requests to one server: paced, tried again, counted and capped; each comes back once.

    asks --enter--> in flight --answered | rejected | failed--> (ask, answer), in the order of arrival
             ^          | a fault worth another try: wait by key and count, then again
             +----------+

Retries are ours (the library's are off), so that they are counted. When a cap is reached, the run is stopped or the server is
gone, nothing new is sent; what is in flight still comes back. It does not know what the messages are for, nor where answers go.
"""

# pyright: basic

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import openai

from headway.config import EndpointConfig
from headway.endpoint.answer import Answer, joined, read
from headway.endpoint.faults import Fault, backoff, connection, line, refusal, timeout
from headway.endpoint.meter import Meter
from headway.endpoint.pace import Pace
from headway.errors import ConfigError, EndpointError

_MOST_ERROR = 65_536  # bytes of an error's body that are looked at
_DEFAULT_KEY = "OPENAI_API_KEY"
_CONNECT_SECONDS = 10.0
_GIVE_UP_AFTER = 20  # requests in a row that failed for good: the server is gone


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: a key of the caller's, the conversation, and keys of the body (a seed, or what differs from the config's)."""

    key: str
    messages: list[dict[str, str]]
    settings: Mapping[str, Any] = field(default_factory=dict)


Arrived = Callable[[Ask, Answer], None]


class _Refused(openai.OpenAIError):
    """A status that is no success, raised before the library reads the body (which may be endless)."""

    def __init__(self, fault: Fault):
        super().__init__(fault.kind)
        self.fault = fault


class Endpoint:
    """A server under one budget. An async context manager, for one event loop.

    `meter` begins with what was spent before. `faults` counts failed tries by kind. ConfigError where the key is missing.
    """

    def __init__(self, config: EndpointConfig, meter: Meter | None = None):
        self.config = config
        self.meter = meter or Meter(config)
        self.pace = Pace(config.concurrency)
        self.faults: Counter[str] = Counter()
        self.stopped = ""  # why nothing new is sent
        self._fatal = ""  # what the server refuses us with
        self._broken: Exception | None = None  # a mistake on our side
        self._failed_in_a_row = 0
        self._key = api_key(config)
        self._client = _client(config, self._key)

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def stop(self, why: str) -> None:
        """Send nothing new; what is in flight still comes back."""
        self.stopped = self.stopped or why
        await self.pace.stop()

    async def complete(
        self, asks: Iterable[Ask], arrived: Arrived = lambda ask, answer: None
    ) -> AsyncGenerator[tuple[Ask, Answer], None]:
        """Each ask that was sent, with what became of it. Those that a stop came before do not come back.

        `arrived` gets each at the moment that it is known, before anything is sent in its place: for who must write it down at
        once. Leaving early drops what is in flight. Raises EndpointError at the end where the server refused us altogether, and
        what `arrived` raised.
        """
        finished: asyncio.Queue[tuple[Ask, Answer | None]] = asyncio.Queue()
        running: set[asyncio.Task[None]] = set()
        waiting = iter(asks)
        under_way = 0
        try:
            while True:
                while under_way < 2 * self.config.concurrency and not self.pace.is_stopped:  # some wait for another try
                    ask = next(waiting, None)
                    if ask is None:
                        break
                    task = asyncio.create_task(self._finish(ask, arrived, finished))
                    running.add(task)
                    task.add_done_callback(running.discard)
                    under_way += 1
                if not under_way:
                    break
                ask, answer = await finished.get()
                under_way -= 1
                if answer is not None:
                    yield ask, answer
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        if self._broken is not None:
            raise self._broken
        if self._fatal:
            raise EndpointError(self._fatal)

    async def _finish(self, ask: Ask, arrived: Arrived, finished: asyncio.Queue[tuple[Ask, Answer | None]]) -> None:
        answer = None
        try:
            answer = await self._ask(ask, arrived)
        except Exception as error:  # ours: it must not leave the others waiting for ever
            self._broken = self._broken or error
            await self.stop(self._clean(f"{type(error).__name__}: {error}"))
        finished.put_nowait((ask, answer))

    async def _ask(self, ask: Ask, arrived: Arrived) -> Answer | None:
        """One request to its end; None where it was never sent."""
        fault, tries = Fault("unasked"), 0
        while tries < self.config.max_tries and (ticket := await self.pace.enter()) is not None:
            if cap := self.meter.reached(self.pace.in_flight - 1):
                await self.pace.leave(ticket, is_slower=False)
                await self.stop(cap)
                break
            tries += 1
            is_slower, pause = False, 0.0
            try:
                found = await self._send(ask)
                if isinstance(found, Answer):
                    answer = self._count(found, tries)
                    arrived(ask, answer)
                    return answer
                is_slower, pause = found.slower, min(found.wait, self.config.max_wait_seconds)
            finally:
                await self.pace.leave(ticket, is_slower=is_slower, pause=pause)
            fault = await self._note(found)
            if not fault.again:
                break
            if tries < self.config.max_tries:
                await self.pace.rest(max(pause, backoff(ask.key, tries, self.config.max_wait_seconds)))
        if not tries:
            return None
        await self._note_failure(fault)
        answer = Answer("failed", tries=tries, reason=fault.kind, said=fault.said)
        arrived(ask, answer)
        return answer

    async def _send(self, ask: Ask) -> Answer | Fault:
        """One try."""
        length = sum(len(message["content"]) for message in ask.messages)
        try:
            async with asyncio.timeout(self.config.total_seconds):
                body = await self._body(ask)
        except _Refused as error:
            return error.fault
        except TimeoutError:
            return timeout(f"not whole within {self.config.total_seconds:g} s")
        except openai.APITimeoutError:
            return timeout("the server was silent")
        except openai.APIConnectionError as error:
            return connection(error.__cause__ or error)
        return body if isinstance(body, Fault) else read(joined(body), length)

    async def _body(self, ask: Ask) -> bytes | Fault:
        """The response's body, or that it is too large or broke off."""
        most = int(self.config.max_answer_mb * 2**20)
        create = self._client.chat.completions.with_streaming_response.create
        own = {"temperature": self.config.temperature, "top_p": self.config.top_p, "max_tokens": self.config.max_tokens}
        streamed = {"stream": True, "stream_options": {"include_usage": True}} if self.config.stream else {}
        wanted: dict[str, Any] = {**own, **streamed, **ask.settings, **self.config.extra}
        body = {key: value for key, value in wanted.items() if value is not None}
        async with create(model=self.config.model, messages=ask.messages, extra_body=body) as response:  # type: ignore[arg-type]
            whole = bytearray()
            try:
                async for chunk in response.iter_bytes():
                    whole += chunk
                    if len(whole) > most:
                        return Fault("too large", f"more than {most} bytes")
            except Exception as error:  # the transport's own classes, which the library does not name
                is_late = "Timeout" in type(error).__name__
                return timeout("the server fell silent") if is_late else connection(error)
            return bytes(whole)

    def _count(self, answer: Answer, tries: int) -> Answer:
        """Put an answer on the meter."""
        self._failed_in_a_row = 0
        self.meter.add(answer.prompt_tokens, answer.completion_tokens)
        cost = self.meter.price(answer.prompt_tokens, answer.completion_tokens)
        return replace(answer, tries=tries, cost=cost, said=self._clean(answer.said))

    async def _note(self, fault: Fault) -> Fault:
        """Count a failed try; where it concerns all requests, stop."""
        self.faults[fault.kind] += 1
        fault = replace(fault, said=self._clean(fault.said))
        if fault.stops:
            said = f" ({fault.kind}: {fault.said})" if fault.said else f" ({fault.kind})"
            self._fatal = self._fatal or f"{self.config.base_url}, model {self.config.model!r}: {self._clean(fault.stops)}{said}"
            await self.stop(self._fatal)
        return fault

    async def _note_failure(self, fault: Fault) -> None:
        """Too many requests in a row that failed for good: the server is gone, or all of them are wrong."""
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= _GIVE_UP_AFTER and not self.stopped:
            last = f"{fault.kind}: {fault.said}" if fault.said else fault.kind
            self._fatal = f"{self.config.base_url}: {self._failed_in_a_row} requests in a row failed (the last: {last})"
            await self.stop(self._fatal)

    def _clean(self, text: str) -> str:
        """One line without the key, which some servers repeat."""
        return line(text.replace(self._key, "***") if self._key else text)


def api_key(config: EndpointConfig) -> str:
    """The key from the environment, "" where none is sent. ConfigError names the variable that should hold it, and for a cap on
    the cost without prices.

    OPENAI_API_KEY goes to https servers only, so that it is not sent in the clear or to whatever listens on this machine; a key
    in a variable that is named goes where the user says. https on this machine needs none.
    """
    if config.max_cost and not (config.prompt_price or config.completion_price):
        raise ConfigError("max_cost needs prompt_price or completion_price: without them every request is free")
    parts = urlsplit(config.base_url)
    if not config.api_key_env and (parts.scheme == "http"):
        return ""
    name = config.api_key_env or _DEFAULT_KEY
    key = os.environ.get(name, "").strip()
    if not key and (config.api_key_env or not is_loopback(parts.hostname or "")):
        raise ConfigError(f"the environment variable {name} should hold the API key of {config.base_url}; it is not set")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"the environment variable {name} holds something that is no API key")
    return key


def is_loopback(host: str) -> bool:
    """Whether a host's name means this machine and nothing else."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _client(config: EndpointConfig, key: str) -> openai.AsyncOpenAI:
    """The library's client without its retries, without redirects and without the accounts that the environment names."""
    wait = openai.Timeout(config.read_seconds, connect=_CONNECT_SECONDS, pool=None)
    host = urlsplit(config.base_url).hostname or ""

    async def refuse(response: Any) -> None:
        """Hand on a status that is no success with the beginning of its body."""
        if 200 <= response.status_code < 300:
            return
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > _MOST_ERROR:
                break
        text = body[:_MOST_ERROR].decode("utf-8", "replace")
        raise _Refused(refusal(response.status_code, response.headers, text))

    transport = openai.DefaultAsyncHttpxClient(
        timeout=wait,
        follow_redirects=False,
        event_hooks={"response": [refuse]},
        trust_env=not is_loopback(host),  # a proxy has no business between this machine and itself
    )
    absent = openai.Omit()
    headers: Any = {"Accept-Encoding": "identity", "OpenAI-Organization": absent, "OpenAI-Project": absent}
    return openai.AsyncOpenAI(
        api_key=key or "none",  # the library wants one; servers without keys do not look
        admin_api_key="",
        base_url=config.base_url,
        max_retries=0,
        timeout=wait,
        http_client=transport,
        default_headers=headers,
    )
