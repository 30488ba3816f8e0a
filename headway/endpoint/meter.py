"""What was used and what it cost, and whether one more request fits under the cap.

    cost = prompt tokens * prompt price / 1e6  +  completion tokens * completion price / 1e6
    a request starts only while   spent + (in flight + 1) * mean of those answered   stays within the cap

So the end lies near the cap: above it by what the last requests in flight used more than the mean. Tokens of an answer that broke
off are not known to anyone here. It does not know who is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from headway.config import EndpointConfig


@dataclass(slots=True)
class Meter:
    """Counts of one budget; begin it with what was spent before."""

    config: EndpointConfig
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    answered: int = 0

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What these tokens cost."""
        return (prompt_tokens * self.config.prompt_price + completion_tokens * self.config.completion_price) / 1e6

    def add(self, prompt_tokens: int, completion_tokens: int, cost: float | None = None) -> None:
        """Count one answer; `cost` where it was worked out before, at the prices of then."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.cost += self.price(prompt_tokens, completion_tokens) if cost is None else cost
        self.answered += 1

    def reached(self, in_flight: int = 0) -> str:
        """The one line that says which cap leaves no room for one more request, or ""."""
        more = (in_flight + 1) / self.answered if self.answered else 0.0
        total = self.prompt_tokens + self.completion_tokens
        config = self.config
        if config.max_cost and self.cost * (1 + more) > config.max_cost:
            return f"max_cost = {config.max_cost:g} is reached (spent {self.cost:.4g})"
        if config.max_tokens_total and total * (1 + more) > config.max_tokens_total:
            return f"max_tokens_total = {config.max_tokens_total} is reached (used {total})"
        return ""
