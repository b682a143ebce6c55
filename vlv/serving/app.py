"""The HTTP server: OpenAI's chat completions over images, models, health and metrics."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import ValidationError
from torch import Tensor

from vlv.checkpoints.identity import JsonObject
from vlv.data.formats import DecodeSettings
from vlv.data.sample import BadSample
from vlv.data.transforms import decode_image
from vlv.models.image_processor import VLVImageProcessor
from vlv.sampling import mix_seed
from vlv.serving.batching import Asked, Batcher, ClosedError, Engine, QueueFullError, Said, Ticket
from vlv.serving.fetch import Fetcher, FetchLimits, ImageError
from vlv.serving.protocol import ChatRequest

_BODY_MORE = 1 << 20  # bytes of a request beside its image


@dataclass(frozen=True)
class ServerSettings:
    """What a server takes; see `vlv.config.serve.ServeConfig`."""

    model_name: str
    token: str | None = None
    batch_size: int = 8
    batch_wait: float = 0.005
    queue_limit: int = 256
    request_timeout: float = 120.0
    num_beams: int = 1
    max_image_bytes: int = 20_000_000
    max_image_mib: int = 512
    download_timeout: float = 10.0
    allow_private: bool = False
    shutdown_timeout: float = 30.0


class _ApiError(Exception):
    def __init__(self, status: int, kind: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.retry_after = status, kind, retry_after

    def response(self) -> Response:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        error = {"message": str(self), "type": self.kind, "param": None, "code": None}
        return JSONResponse({"error": error}, self.status, headers)


class _Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: JsonObject = {"registry": self.registry}
        self.requests = Counter("vlv_requests_total", "chat completions by status", ["status"], **own)
        self.seconds = Histogram(
            "vlv_request_seconds",
            "seconds of a chat completion",
            buckets=(0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120),
            **own,
        )
        self.batches = Histogram("vlv_batch_images", "images of a batch", buckets=(1, 2, 4, 8, 16, 32, 64), **own)
        self.tokens = Counter("vlv_generated_tokens_total", "tokens of all captions", **own)
        self.load = Gauge("vlv_requests_in_work", "requests that wait or are captioned", **own)


def create_app(engine: Engine, image_processor: VLVImageProcessor, settings: ServerSettings) -> FastAPI:
    """The server over an engine; started and stopped by what serves it (uvicorn)."""
    server = _Server(engine, image_processor, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await server.close()

    app = FastAPI(title="vlv", lifespan=lifespan)
    app.add_api_route("/healthz", server.health, methods=["GET"])
    app.add_api_route("/metrics", server.show_metrics, methods=["GET"])
    app.add_api_route("/v1/models", server.models, methods=["GET"])
    body = {"required": True, "content": {"application/json": {"schema": ChatRequest.model_json_schema()}}}
    app.add_api_route(
        "/v1/chat/completions", server.chat, methods=["POST"], response_model=None, openapi_extra={"requestBody": body}
    )
    return app


class _Server:
    def __init__(self, engine: Engine, image_processor: VLVImageProcessor, settings: ServerSettings) -> None:
        self._engine, self._settings, self._image_processor = engine, settings, image_processor
        self._metrics = _Metrics()
        self._batcher = Batcher(
            engine, settings.batch_size, settings.batch_wait, settings.queue_limit, self._metrics.batches.observe
        )
        limits = FetchLimits(settings.max_image_bytes, settings.download_timeout, settings.allow_private)
        self._fetcher = Fetcher(limits)
        self._created = int(time.time())
        self._taken = 0  # requests whose image is being read, or that are in the batcher

    async def close(self) -> None:
        await asyncio.to_thread(self._batcher.close, self._settings.shutdown_timeout)
        await self._fetcher.close()

    async def health(self) -> dict[str, str]:
        return {"status": "ok"}

    async def show_metrics(self) -> Response:
        self._metrics.load.set(self._taken)
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def models(self, request: Request) -> Response:
        try:
            self._require_token(request)
        except _ApiError as error:
            return error.response()
        model = {"id": self._settings.model_name, "object": "model", "created": self._created, "owned_by": "vlv"}
        return JSONResponse({"object": "list", "data": [model]})

    async def chat(self, request: Request) -> Response:
        """One chat completion; whatever fails is OpenAI's JSON of an error."""
        started = time.monotonic()
        try:
            answer = await self._chat(request, started)
        except _ApiError as error:
            answer = error.response()
        if not isinstance(answer, StreamingResponse):  # else counted at its end
            self._count(answer.status_code, started)
        return answer

    def _count(self, status: int, started: float) -> None:
        self._metrics.requests.labels(str(status)).inc()
        self._metrics.seconds.observe(time.monotonic() - started)

    async def _chat(self, request: Request, started: float) -> Response:
        self._require_token(request)
        if self._taken >= self._settings.queue_limit:
            raise _busy()
        self._taken += 1
        ticket = None
        try:
            # Also a client that sends its body a byte at a time is given up.
            async with asyncio.timeout(self._settings.request_timeout):
                asked = await self._read(request)
                pixels = await self._pixels(asked.image_url())
                ticket = self._submit(asked, pixels)
            if asked.stream:
                return StreamingResponse(self._stream(asked, ticket, started), media_type="text/event-stream")
            said = await self._result(ticket, started, request)
            return JSONResponse(self._completion(asked, said))
        except TimeoutError:
            raise _ApiError(408, "timeout", f"not done within {self._settings.request_timeout:g} seconds") from None
        except ImageError as error:
            raise _ApiError(400, "invalid_request_error", str(error)) from None
        finally:
            if ticket is None:
                self._taken -= 1
            else:  # in work until it is settled, whether or not somebody still waits for it
                ticket.result.add_done_callback(self._leave)

    def _leave(self, _: object) -> None:
        self._taken -= 1

    def _require_token(self, request: Request) -> None:
        if self._settings.token is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not secrets.compare_digest(given.encode(), self._settings.token.encode()):
            raise _ApiError(401, "authentication_error", "the bearer token is missing or wrong")

    async def _read(self, request: Request) -> ChatRequest:
        most = 2 * self._settings.max_image_bytes + _BODY_MORE  # base64, and JSON around it
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise _ApiError(413, "invalid_request_error", f"the request is larger than {most / 1e6:g} MB")
        try:
            asked = ChatRequest.model_validate_json(bytes(body))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the request"
            raise _ApiError(400, "invalid_request_error", f"{place}: {first['msg']}") from None
        if asked.model != self._settings.model_name:
            name = self._settings.model_name
            raise _ApiError(404, "invalid_request_error", f"the model {asked.model!r} is not served here: {name} is")
        if (asked.n or 1) > 1 and not asked.temperature:
            raise _ApiError(400, "invalid_request_error", "n: several captions are sampled, give a temperature above 0")
        return asked

    async def _pixels(self, url: str) -> Tensor:
        content = await self._fetcher.read(url)
        return await asyncio.to_thread(self._prepare, content)

    def _prepare(self, content: bytes) -> Tensor:
        try:
            image = decode_image(content, DecodeSettings(max_image_mib=self._settings.max_image_mib))
            return self._image_processor(image)["encoder_pixels"]
        except (BadSample, OSError, SyntaxError) as error:
            raise ImageError(f"the image cannot be read: {error}") from None

    def _submit(self, asked: ChatRequest, pixels: Tensor) -> Ticket:
        temperature, count = asked.temperature or 0.0, asked.n or 1
        seed = random.getrandbits(62) if asked.seed is None else asked.seed
        seeds = [mix_seed(seed, number) for number in range(count)]
        limit = asked.max_completion_tokens or asked.max_tokens
        wanted = Asked(self._settings.num_beams if not temperature else 1, temperature, count, limit)
        try:
            return self._batcher.submit(pixels, wanted, seeds, bool(asked.stream))
        except QueueFullError:
            raise _busy() from None
        except ClosedError:
            raise _ApiError(503, "server_error", "the server is shutting down", 5) from None

    async def _result(self, ticket: Ticket, started: float, request: Request) -> list[Said]:
        """The captions; a request that is given up, or whose client has gone, does not reach the engine any more."""
        # A client that has gone would keep its place in the queue else, and the next batch would caption for nobody.
        gone = asyncio.create_task(_gone(request))
        try:
            left = started + self._settings.request_timeout - time.monotonic()
            await asyncio.wait({gone, ticket.result}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not ticket.result.done():
                ticket.given_up.set()
                raise TimeoutError
            try:
                return ticket.result.result()
            except Exception as error:  # noqa: BLE001  (whatever it is, the client hears of it)
                raise _ApiError(500, "server_error", f"{type(error).__name__}: {error}") from None
        finally:
            gone.cancel()

    def _completion(self, asked: ChatRequest, said: list[Said]) -> JsonObject:
        choices = [
            {
                "index": place,
                "message": {"role": "assistant", "content": one.text, "refusal": None},
                "finish_reason": _finish_reason(one),
                "logprobs": None,
            }
            for place, one in enumerate(said)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": self._usage(said)}

    def _head(self, kind: Literal["chat.completion", "chat.completion.chunk"]) -> JsonObject:
        name = f"chatcmpl-{uuid.uuid4().hex}"
        return {"id": name, "object": kind, "created": int(time.time()), "model": self._settings.model_name}

    def _usage(self, said: list[Said]) -> dict[str, int]:
        tokens = sum(one.tokens for one in said)
        self._metrics.tokens.inc(tokens)
        image = self._engine.prompt_tokens
        return {"prompt_tokens": image, "completion_tokens": tokens, "total_tokens": image + tokens}

    async def _stream(self, asked: ChatRequest, ticket: Ticket, started: float) -> AsyncIterator[str]:
        head, status = self._head("chat.completion.chunk"), 200

        def event(choices: list[JsonObject], **more: object) -> str:
            return f"data: {json.dumps({**head, 'choices': choices, **more}, ensure_ascii=False)}\n\n"

        def choice(place: int, delta: dict[str, str], reason: str | None = None) -> list[JsonObject]:
            return [{"index": place, "delta": delta, "finish_reason": reason, "logprobs": None}]

        assert ticket.parts is not None
        try:
            for place in range(ticket.asked.count):
                yield event(choice(place, {"role": "assistant", "content": ""}))
            async with asyncio.timeout(started + self._settings.request_timeout - time.monotonic()):
                while (part := await ticket.parts.get()) is not None:
                    yield event(choice(part[0], {"content": part[1]}))
                said = await ticket.result
            for place, one in enumerate(said):
                yield event(choice(place, {}, _finish_reason(one)))
            usage = self._usage(said)
            if asked.stream_options is not None and asked.stream_options.include_usage:
                yield event([], usage=usage)
            yield "data: [DONE]\n\n"
        except Exception as error:  # noqa: BLE001  (the answer has begun: what is wrong can only be its end)
            status = 408 if isinstance(error, TimeoutError) else 500
            message = {"message": str(error) or type(error).__name__, "type": "server_error", "code": status}
            yield f"data: {json.dumps({'error': message})}\n\n"
        finally:
            ticket.given_up.set()  # where the client has gone
            self._count(status, started)


def _busy() -> _ApiError:
    return _ApiError(429, "rate_limit_error", "too many requests wait: try again later", 1)


def _finish_reason(said: Said) -> str:
    return "stop" if said.ended else "length"


async def _gone(request: Request) -> None:
    """Returns once the client has closed the connection; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
