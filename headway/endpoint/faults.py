"""What can go wrong with a request, and what is done about it: one table.

    | what came                                              | kind               | again | slower | stops all |
    | ------------------------------------------------------ | ------------------ | ----- | ------ | --------- |
    | 429                                                    | http 429           | yes   | yes    |           |
    | 429 that says `insufficient_quota`, 402                | http 429, http 402 |       |        | yes       |
    | 503, 529                                               | http 503, ...      | yes   | yes    |           |
    | 408, 409, 425, any other 5xx                           | http 500, ...      | yes   |        |           |
    | no byte within read_seconds, or not whole in total_... | timeout            | yes   | yes    |           |
    | no connection, or one that broke off                   | connection         | yes   |        |           |
    | not JSON, no choices, no finish reason, an aborted one | malformed          | yes   |        |           |
    | 400, 413, 422 and any other 4xx                        | http 400, ...      |       |        |           |
    | more than max_answer_mb                                | too large          |       |        |           |
    | 401, 403, 404, a redirect                              | http 401, ...      |       |        | yes       |

It does not know what was asked. A text of the server's is cut to one line; whoever shows it takes the key out.
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from headway.types import content_id

FIRST_WAIT = 0.5  # seconds before the second try; doubles with each
_AGAIN = {408, 409, 425}
_SLOWER = {429, 503, 529}
_STOPS = {401: "refuses the API key", 402: "wants to be paid", 403: "refuses this key", 404: "does not know this model or path"}


@dataclass(frozen=True, slots=True)
class Fault:
    """One failed try. Example: ``Fault("http 429", "slow down", again=True, slower=True, wait=2.0)``

    `wait` is what Retry-After says, in seconds, or 0. `stops` is the one line that ends the whole run, or "".
    """

    kind: str
    said: str = ""
    again: bool = False
    slower: bool = False
    wait: float = 0.0
    stops: str = ""


def timeout(said: str) -> Fault:
    """An answer that did not come in time."""
    return Fault("timeout", said, again=True, slower=True)


def connection(error: BaseException) -> Fault:
    """No connection, or one that broke off."""
    return Fault("connection", line(str(error)) or type(error).__name__, again=True)


def malformed(said: str) -> Fault:
    """An answer that is none: it may be a good one the next time."""
    return Fault("malformed", said, again=True)


def refusal(status: int, headers: Mapping[str, str], body: str) -> Fault:
    """What an HTTP status from 300 on means."""
    kind, said = f"http {status}", message(body)
    if 300 <= status < 400:
        # Not followed: the key would go along to wherever the server says.
        where = line(headers.get("location", "elsewhere"))
        return Fault(kind, said, stops=f"redirects to {where}, which is not followed: give that address itself")
    if status in _STOPS:
        return Fault(kind, said, stops=_STOPS[status])
    if status == 429 and "insufficient_quota" in body:
        return Fault(kind, said, stops="has no quota left for this key")
    again = status in _AGAIN or status in _SLOWER or status >= 500
    return Fault(kind, said, again, status in _SLOWER, retry_after(headers) if again else 0.0)


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float:
    """Seconds that the server asks to wait: `retry-after-ms`, or `retry-after` as seconds or as a date; 0 where it does not."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", headers.get(name, "")):
            return float(headers[name]) * unit
    when = email.utils.parsedate_tz(headers.get("retry-after", ""))
    if when is None:
        return 0.0
    try:
        return max(0.0, email.utils.mktime_tz(when) - (time.time() if now is None else now))
    except (OverflowError, ValueError):
        return 0.0


def backoff(key: str, tries: int, most: float, first: float = FIRST_WAIT) -> float:
    """Seconds to wait after the `tries`-th failed try: doubling, between half and the whole of it by (key, tries) alone.

    >>> backoff("p/0", 1, 60.0) == backoff("p/0", 1, 60.0) and 0.25 <= backoff("p/0", 1, 60.0) <= 0.5
    True
    """
    share = int(content_id("backoff", key, tries), 16) / 2**64
    return min(most, first * 2.0 ** min(tries - 1, 30)) * (0.5 + 0.5 * share)


def message(body: str) -> str:
    """What an error's body says, as one line: OpenAI's shape, FastAPI's `detail`, or the text itself."""
    try:
        value = json.loads(body)
        value = value.get("error", value.get("message", value.get("detail", body)))
        value = value.get("message", value) if isinstance(value, dict) else value
    except (ValueError, AttributeError, RecursionError):
        value = body
    return line(str(value))


def line(text: str) -> str:
    """One line of at most 200 characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= 200 else flat[:199] + "…"
