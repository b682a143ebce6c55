"""An OpenAI-compatible endpoint: one image and a prompt become one answer, with tries again where that may help.

The `openai` client keeps the connections and reads the protocol. Its own retries are switched off: they would not count
against a budget, do not hold the other requests back while the endpoint is busy, and give up where Retry-After is over
two minutes.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from vlv.config import CaptionApiConfig
from vlv.datatools.answers import Answer
from vlv.datatools.budget import Budget
from vlv.redaction import HIDDEN, redact

if TYPE_CHECKING:
    import openai

_PASSING = (408, 409, 429)  # and 5xx: answers after which another try may do better
_OF_IMAGE = (400, 413, 415, 422)  # what one image may cause: too large, of a content that the endpoint filters
_LONGEST_WAIT = 3600.0  # seconds that Retry-After may ask for; a call that sleeps for longer looks as if it hung
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


class EndpointError(ValueError):
    """The endpoint cannot be used, for this image or any other: a wrong key, model or address, or no money left."""


class NoAnswerError(Exception):
    """One image got no answer after all tries; a later call may get one. The message says what the last try met."""


class RejectedError(Exception):
    """The endpoint does not take this image. refused: its content is why."""

    def __init__(self, reason: str, refused: bool) -> None:
        super().__init__(reason)
        self.refused = refused


class _PassingError(Exception):
    """One try that failed.

    kind: a word for the report. wait: seconds that the endpoint asked for.
    """

    def __init__(self, kind: str, reason: str = "", wait: float | None = None) -> None:
        super().__init__(reason or kind)
        self.kind, self.wait = kind, wait


class Endpoint:
    """Asks for captions; used by one event loop."""

    def __init__(self, config: CaptionApiConfig, budget: Budget, warn: Callable[[str], None]) -> None:
        """Connect to nothing yet.

        Args:
            warn: gets lines on what a user may have to wait for.
        """
        import openai

        self._config, self._budget, self._warn = config, budget, warn
        self._prompt = config.prompt()
        self._key = config.api_key()
        self._quiet_until = 0.0  # of time.monotonic(): no request before it
        # It will not do without a key; servers that want none take any.
        self._client = openai.AsyncOpenAI(
            base_url=config.base_url, api_key=self._key or "none", max_retries=0, timeout=config.timeout
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def ask(self, image_url: str, troubles: list[str]) -> Answer:
        """Ask for the caption of one image.

        Args:
            image_url: the image as a data URL.
            troubles: gets a word for each try that failed.

        Raises:
            NoAnswerError, RejectedError: of this image.
            EndpointError: of every image.
            BudgetSpentError: before a request that could exceed the budget.
        """
        pause, wait = _FIRST_PAUSE, None
        for tries_left in range(self._config.retries, -1, -1):
            await self._quiet()
            await self._budget.start()
            answer = None
            try:
                answer = await self._try(image_url)
            except _PassingError as trouble:
                troubles.append(trouble.kind)
                if not tries_left:
                    raise NoAnswerError(f"{trouble} ({self._config.retries + 1} tries)") from None
                wait = trouble.wait
            finally:
                await self._budget.end(*(answer[3:] if answer is not None else (None, None)))
            if answer is not None:
                self._require_usage(answer)
                return answer
            if wait is not None:
                self._hold_back(wait)
            else:
                await asyncio.sleep(pause * random.uniform(0.75, 1.0))
                pause = min(2 * pause, _LONGEST_PAUSE)
        raise AssertionError("the last try returns or raises")

    async def _quiet(self) -> None:
        """Wait until the endpoint wants requests again."""
        while (wait := self._quiet_until - time.monotonic()) > 0:
            await asyncio.sleep(wait)
            await asyncio.sleep(random.uniform(0, min(1.0, wait / 4)))  # not all at the same instant

    def _hold_back(self, wait: float) -> None:
        """Send nothing, for any image, for so many seconds.

        Raises:
            EndpointError: they are too many.
        """
        if wait > _LONGEST_WAIT:
            raise EndpointError(f"{self._place()} asks for a pause of {wait:,.0f} s (Retry-After): call again then")
        until = time.monotonic() + wait
        if wait >= 10 and until > self._quiet_until + 1:
            self._warn(f"{self._place()} asks for a pause of {wait:.0f} s")
        self._quiet_until = max(self._quiet_until, until)

    async def _try(self, image_url: str) -> Answer:
        import openai

        try:
            # The client's own limit is for each wait on the socket: an endpoint that drips bytes would never reach it.
            async with asyncio.timeout(self._config.timeout):
                return _read(await self._send(image_url))
        except (TimeoutError, openai.APITimeoutError):
            raise _PassingError("time-out", f"no whole answer in {self._config.timeout:g} s") from None
        except openai.APIStatusError as error:
            raise self._refusal(error) from None
        except openai.APIConnectionError as error:
            cause = self._clean(str(error.__cause__ or error))
            raise _PassingError("connection", f"the connection failed: {cause}") from None
        except (json.JSONDecodeError, UnicodeDecodeError, openai.APIResponseValidationError):
            raise _PassingError("broken answer", "the answer is no JSON") from None

    async def _send(self, image_url: str) -> object:
        import openai

        config = self._config
        image = {"type": "image_url", "image_url": {"url": image_url}}
        messages = [{"role": "user", "content": [image, {"type": "text", "text": self._prompt}]}]
        limit = {config.max_tokens_field: config.max_tokens}
        return await self._client.chat.completions.create(  # pyright: ignore[reportCallIssue]
            model=config.model,
            messages=messages,  # pyright: ignore[reportArgumentType]
            temperature=openai.omit if config.temperature is None else config.temperature,
            **limit,  # pyright: ignore[reportArgumentType]
        )

    def _refusal(self, error: openai.APIStatusError) -> Exception:
        """What an HTTP status means: try again, leave the image out, or stop."""
        code, status = str(error.code or ""), error.status_code
        body = error.body if isinstance(error.body, dict) else {}
        said = self._clean(str(body.get("message") or body.get("detail") or error.message))  # detail is FastAPI's
        if "content" in code and ("filter" in code or "policy" in code):
            return RejectedError(code, refused=True)
        if code == "insufficient_quota":
            return EndpointError(f"{self._place()}: the account's quota is spent: {said}")
        if status in _PASSING or status >= 500:
            return _PassingError(str(status), said, _retry_after(error.response.headers.get("retry-after")))
        if status in _OF_IMAGE:
            return RejectedError(f"{status}: {said}", refused=False)
        fixes = {
            401: "set the variable that api_key_env names to a valid key"
            if self._key
            else "name the key's variable with api_key_env",
            403: "the key may not use this model",
            404: f"check base_url and model={self._config.model}",
        }
        fix = f"; {fixes[status]}" if status in fixes else ""
        return EndpointError(f"{self._place()} answers {status}: {said}{fix}")

    def _require_usage(self, answer: Answer) -> None:
        if self._config.max_tokens_spent is not None and answer.prompt_tokens is None:
            raise EndpointError(
                f"max_tokens_spent={self._config.max_tokens_spent}: the answers of {self._place()} name no tokens: "
                "give max_requests instead"
            )

    def _place(self) -> str:
        return redact(self._config.base_url)

    def _clean(self, text: str) -> str:
        """What an endpoint says, in one line; some repeat the key that they refuse."""
        text = " ".join(text.split())[:300]
        return text.replace(self._key, HIDDEN) if self._key else text


def _read(completion: object) -> Answer:
    """The parts of an answer that count. The client checks no field, so that any may be missing."""
    choices = getattr(completion, "choices", None)
    message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    if message is None:
        raise _PassingError("broken answer", "the answer has no message")
    content, usage = getattr(message, "content", None), getattr(completion, "usage", None)
    text = content if isinstance(content, str) else ""
    if text.encode("utf-8", "ignore").decode() != text:
        raise _PassingError("broken answer", "the answer is no valid text: it has a lone surrogate")
    return Answer(
        text=text or str(getattr(message, "refusal", None) or ""),
        finish_reason=getattr(choices[0], "finish_reason", None) if choices else None,
        refused=bool(getattr(message, "refusal", None)),
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
    )


def _count(usage: object, field: str) -> int | None:
    value = getattr(usage, field, None)
    return value if isinstance(value, int) else None


def _retry_after(value: str | None) -> float | None:
    """Seconds that the header asks for, which are given as such or as a date; None without a usable one."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds == seconds else None  # not NaN
