"""A chat-completions server without a model that fails at random, on a loopback port in a thread of its own.

The answer is a function of the question and the seed (`text_for`), so that each row of a table can be checked. `answered` counts
how often each (question, seed) was sent to its last byte: a client that repeats no request gets each once.
"""

import asyncio
import hashlib
import json
import random
import threading
import time
from collections import Counter
from typing import Any

FAULTS = ("429", "429 retry-after", "500", "503", "drop", "drop mid-body", "not json", "no choices", "trickle", "stall")


def text_for(question: str, seed: int) -> str:
    """The one answer to a question under a seed."""
    mark = hashlib.sha256(f"{seed} {question}".encode()).hexdigest()
    return f"Thinking {mark} about it.\nThe answer is \\boxed{{{len(question)}}}"


class FlakyServer:
    """A context manager. Of the requests a share `rate` meets one of `faults`; the others take `seconds` at most.

    `script` is for single requests: a list of (status, headers, body) that are given first, in order; None is a good answer.
    """

    def __init__(self, rate: float = 0.0, faults=FAULTS, seconds: float = 0.01, stall: float = 30.0, seed: int = 0, script=()):
        self.rate, self.faults, self.seconds, self.stall = rate, faults, seconds, stall
        self.answered: Counter[tuple[str, int]] = Counter()
        self.met: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []  # the bodies, with their headers under "headers"
        self.in_flight = self.most_in_flight = 0
        self.script = list(script)
        self._chance = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "FlakyServer":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=512))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The requests of one connection, until either side ends it."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                try:
                    if not await self._answer(json.loads(body) | {"headers": headers}, writer):
                        break
                finally:
                    self.in_flight -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """Answer or fail. False ends the connection."""
        self.requests.append(request)
        await asyncio.sleep(self.seconds * self._chance.random())
        if self.script:
            found = self.script.pop(0)
            if found is not None:
                return await _send(writer, *found)
        fault = self._chance.choice(self.faults) if self._chance.random() < self.rate else ""
        self.met[fault or "answered"] += 1
        question, seed = request["messages"][-1]["content"], request.get("seed", 0)
        text = text_for(question, seed)
        whole = json.dumps(completion(text, prompt_tokens=len(question), completion_tokens=len(text))).encode()
        if fault.isdecimal() or fault == "429 retry-after":
            headers = {"retry-after": "0.05"} if "retry" in fault else {}
            return await _send(writer, int(fault[:3]), headers, b'{"error": {"message": "not now"}}')
        if fault == "drop":
            return False
        if fault == "not json":
            return await _send(writer, 200, {}, whole[: len(whole) // 2] + b"}")
        if fault == "no choices":
            return await _send(writer, 200, {}, b'{"id": "x", "choices": [], "usage": null}')
        if fault in ("drop mid-body", "trickle", "stall"):
            if not await _send_slowly(writer, whole, fault, self.stall):
                return False
        else:
            await _send(writer, 200, {}, whole)
        self.answered[question, seed] += 1
        return True


def completion(
    text: str | None, finish: str | None = "stop", prompt_tokens: int = 3, completion_tokens: int = 5, **more: Any
) -> Any:
    """A chat completion with one choice; `more` goes into its message."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **more}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}


def good(*words: Any, **more: Any) -> tuple[int, dict[str, str], bytes]:
    """A scripted answer: `completion` as a response."""
    return 200, {}, json.dumps(completion(*words, **more)).encode()


async def _send(writer: asyncio.StreamWriter, status: int, headers: dict[str, str], body: bytes) -> bool:
    lines = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    await writer.drain()
    return True


async def _send_slowly(writer: asyncio.StreamWriter, body: bytes, fault: str, stall: float) -> bool:
    """The body in pieces: all of it ("trickle"), half of it, or a byte now and then for `stall` seconds."""
    writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode())
    if fault == "stall":
        until = time.monotonic() + stall
        for byte in body[:-1]:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)
            if time.monotonic() > until:
                break
        return False
    pieces = [body[at : at + len(body) // 4 + 1] for at in range(0, len(body), len(body) // 4 + 1)]
    for piece in pieces if fault == "trickle" else pieces[:2]:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.01)
    return fault == "trickle"
