"""A teacher behind an OpenAI-compatible server: a problem and an index become a request, an answer becomes a rollout.

    (problem, index) --messages, seed(problem, index)--> endpoint --> Rollout(sampler="teacher", step=0, index, policy)

A server that gives the reasoning apart has it put back before the answer, in <think> tags, as a student is to write it. Ctrl-C
sends nothing new and waits for what is in flight; a second one drops that. It does not know what was asked before (`book`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

from headway.config import EndpointConfig
from headway.endpoint.answer import Answer
from headway.endpoint.client import Ask, Endpoint, api_key
from headway.endpoint.interrupt import on_ctrl_c
from headway.endpoint.meter import Meter
from headway.problems.prompt import messages
from headway.teacher.book import SAMPLER, Book, key_of
from headway.teacher.journal import Finished
from headway.teacher.sampling import Settings, Show
from headway.types import Problem, Rollout, StopReason, content_id

_STOP_REASONS = {"stop": StopReason.STOP, "length": StopReason.LENGTH}


class ServerTeacher:
    """A model of a server. `seed` < 0 sends none; `say` gets what the user should know on the way. ConfigError: no key."""

    def __init__(self, config: EndpointConfig, seed: int, instruction: str, system: str, say: Callable[[str], None]):
        self.config, self._say = config, say
        self._told: set[str] = set()  # kinds of failure whose words the user has seen
        extra = json.dumps(config.extra, sort_keys=True)
        self.settings = Settings(
            config.model, config.temperature, config.top_p, config.max_tokens, seed, instruction, system, extra
        )  # fmt: skip
        api_key(config)  # told before anything else is done

    def answer(self, requests: Sequence[tuple[Problem, int]], policy: str, book: Book, show: Show) -> str:
        """Ask for every request, many at once. KeyboardInterrupt after Ctrl-C, EndpointError where the server refuses us."""
        try:
            return asyncio.run(self._answer(requests, policy, book, show))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    async def _answer(self, requests: Sequence[tuple[Problem, int]], policy: str, book: Book, show: Show) -> str:
        meter = Meter(self.config)
        for row in book.rows.values():
            if row.is_final:
                meter.add(row.prompt_tokens, row.completion_tokens, row.cost)
        asks = (self._ask(problem, index) for problem, index in requests)

        def write_down(ask: Ask, answer: Answer) -> None:
            problem_id, _, index = ask.key.rpartition("/")
            book.add(self._finished(problem_id, int(index), policy, answer))

        async with Endpoint(self.config, meter) as endpoint:
            with on_ctrl_c(endpoint, self._say) as interrupted:
                async with aclosing(endpoint.complete(asks, write_down)) as finished:
                    async for _ in finished:
                        show(in_passing(endpoint))
            if interrupted:
                raise KeyboardInterrupt
            return endpoint.stopped

    def _ask(self, problem: Problem, index: int) -> Ask:
        own = self.settings
        system = [{"role": "system", "content": own.system}] if own.system else []
        body = {"seed": request_seed(own.seed, problem.id, index)} if own.seed >= 0 else {}
        return Ask(key_of(problem.id, index), system + messages(problem, own.instruction), body)

    def _finished(self, problem_id: str, index: int, policy: str, answer: Answer) -> Finished:
        counts = (answer.prompt_tokens, answer.completion_tokens, answer.cost, answer.tries)
        key = key_of(problem_id, index)
        if answer.state != "answered":
            if answer.said and answer.reason not in self._told:  # the words once: they differ from request to request
                self._told.add(answer.reason)
                self._say(f"{answer.reason}: {answer.said}")
            return Finished(key, "rejected" if answer.state == "rejected" else "failed", answer.reason, None, None, *counts)
        sent: dict[str, Any] = {"temperature": self.config.temperature, "top_p": self.config.top_p} | self.config.extra
        rollout = Rollout.make(
            problem_id,
            SAMPLER,
            0,
            index,
            policy,
            text_of(answer),
            stop_reason=_STOP_REASONS[answer.finish_reason],
            num_tokens=0 if answer.is_estimated else answer.completion_tokens,
            temperature=1.0 if sent["temperature"] is None else float(sent["temperature"]),  # None: the server's own
            top_p=1.0 if sent["top_p"] is None else float(sent["top_p"]),
            top_k=max(0, int(sent.get("top_k") or 0)),  # -1, too, is all
            min_p=float(sent.get("min_p") or 0.0),
        )
        return Finished(key, "kept", "", rollout, None, *counts)


def request_seed(seed: int, problem_id: str, index: int) -> int:
    """The seed that a request carries: 31 bits of (seed, problem, index)."""
    return int(content_id("teacher", seed, problem_id, index), 16) & 0x7FFF_FFFF


def text_of(answer: Answer) -> str:
    """The completion as a student is to write it: thought in tags, then the answer. A thought that was cut off stays open."""
    if not answer.reasoning:
        return answer.text
    thought = f"<think>\n{answer.reasoning.strip()}"
    return thought if answer.finish_reason == "length" and not answer.text else f"{thought}\n</think>\n\n{answer.text.lstrip()}"


def in_passing(endpoint: Endpoint) -> dict[str, Any]:
    """What is worth a glance while it runs."""
    told = ", ".join(f"{count} {kind}" for kind, count in endpoint.faults.most_common(4))
    cost = {"cost": endpoint.meter.cost} if endpoint.meter.cost else {}
    return {"in_flight": endpoint.pace.in_flight, "faults": told, **cost}
