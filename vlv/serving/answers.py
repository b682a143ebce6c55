"""What is written of OpenAI's API: chat completions, their chunks, models and errors."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from typing import Literal

from fastapi import Response
from fastapi.responses import JSONResponse

from vlv.checkpoints.identity import JsonObject
from vlv.serving.batching import Said

Kind = Literal["chat.completion", "chat.completion.chunk"]


class ApiError(Exception):
    """What a client is told of a request that was not done; the message is for the client."""

    def __init__(self, status: int, kind: str, message: str, retry_after: int | None = None) -> None:
        """Hold what is told.

        Args:
            status: HTTP's. kind: OpenAI's type of the error.
            retry_after: seconds after which it may be tried again.
        """
        super().__init__(message)
        self.status, self._kind, self._retry_after = status, kind, retry_after

    @property
    def body(self) -> JsonObject:
        """OpenAI's form of an error."""
        return {"error": {"message": str(self), "type": self._kind, "param": None, "code": None}}

    def response(self) -> Response:
        """The answer."""
        headers = {} if self._retry_after is None else {"Retry-After": str(self._retry_after)}
        return JSONResponse(self.body, self.status, headers)


def busy() -> ApiError:
    """As many requests wait as may."""
    return ApiError(429, "rate_limit_error", "too many requests wait: try again later", 1)


def failed() -> ApiError:
    """A defect, of which the client needs to know no more."""
    return ApiError(500, "server_error", "the server failed at this request: its log says why")


def late(seconds: float) -> ApiError:
    """It was given up after so many seconds."""
    return ApiError(408, "timeout", f"not done within {seconds:g} seconds")


def unknown_model(name: str, served: str) -> ApiError:
    """Another model was asked for than is served."""
    return ApiError(404, "invalid_request_error", f"the model {name!r} is not served here: {served} is")


def head(kind: Kind, model: str) -> JsonObject:
    """What every answer begins with, and all chunks of one share."""
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def choices(said: Sequence[Said]) -> list[JsonObject]:
    """The captions of an image as choices."""
    return [
        {
            "index": place,
            "message": {"role": "assistant", "content": one.text, "refusal": None},
            "finish_reason": finish_reason(one),
            "logprobs": None,
        }
        for place, one in enumerate(said)
    ]


def part(place: int, delta: dict[str, str], reason: str | None = None) -> list[JsonObject]:
    """More of one choice, as a chunk has it."""
    return [{"index": place, "delta": delta, "finish_reason": reason, "logprobs": None}]


def finish_reason(said: Said) -> str:
    """Why a caption ends."""
    return "stop" if said.ended else "length"


def event(content: JsonObject) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
