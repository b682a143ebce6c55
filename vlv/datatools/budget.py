"""What a set of captions may cost, in requests and tokens, and what it has cost."""

from __future__ import annotations

import asyncio


class BudgetSpentError(Exception):
    """The next request could exceed the budget; the message says which."""


class Budget:
    """Requests and tokens of all calls, those under way included; used by one event loop.

    A request's tokens are known only when it is answered. Until then it counts as `max_tokens` and the longest prompt
    so far, so that requests that run side by side do not exceed the budget together.
    """

    def __init__(self, max_requests: int | None, max_tokens_spent: int | None, max_tokens: int) -> None:
        """Take the limits (None: no limit), and the longest answer in tokens."""
        self._max_requests, self._max_tokens = max_requests, max_tokens_spent
        self._answer = max_tokens
        self._longest_prompt = 0
        self._under_way = 0
        self._changed = asyncio.Condition()
        self.requests = 0
        self.tokens = 0

    def count_earlier(self, requests: int, tokens: int, longest_prompt: int) -> None:
        """Count what earlier calls spent, and the tokens of the longest prompt that they sent."""
        self.requests += requests
        self.tokens += tokens
        self._longest_prompt = max(self._longest_prompt, longest_prompt)

    async def start(self) -> None:
        """Count a request that is about to be sent.

        Raises:
            BudgetSpentError: it would exceed the budget, whatever those under way come to.
        """
        if self._max_requests is not None and self.requests >= self._max_requests:
            raise BudgetSpentError(f"max_requests={self._max_requests}: {self.requests:,} requests are made")
        async with self._changed:
            await self._changed.wait_for(lambda: self._fits() or not self._under_way)
            if not self._fits():
                raise BudgetSpentError(
                    f"max_tokens_spent={self._max_tokens}: {self.tokens:,} tokens are spent, and one more request may "
                    f"take {self._largest():,}"
                )
            self._under_way += 1
        self.requests += 1

    async def end(self, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """Count what a request came to; None where it got no answer, or the answer names no tokens."""
        async with self._changed:
            self._under_way -= 1
            self.tokens += (prompt_tokens or 0) + (completion_tokens or 0)
            self._longest_prompt = max(self._longest_prompt, prompt_tokens or 0)
            self._changed.notify_all()

    def _largest(self) -> int:
        return self._longest_prompt + self._answer

    def _fits(self) -> bool:
        return self._max_tokens is None or self.tokens + (self._under_way + 1) * self._largest() <= self._max_tokens
