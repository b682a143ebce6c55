"""The HTTP server: OpenAI's chat completions over images, models, health and metrics."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from torch import Tensor

from vlv.checkpoints.identity import JsonObject
from vlv.models.image_processor import VLVImageProcessor
from vlv.sampling import mix_seed
from vlv.serving import answers
from vlv.serving.answers import ApiError
from vlv.serving.batching import Asked, Batcher, ClosedError, Engine, QueueFullError, Said, Ticket
from vlv.serving.fetch import FetchLimits
from vlv.serving.held import HeldBytes
from vlv.serving.images import ImageReader
from vlv.serving.protocol import ChatRequest
from vlv.serving.urls import ImageError

_log = logging.getLogger(__name__)
_BODY_MORE = 1 << 20  # bytes of a request beside its image
_MOST_COMMAS = 50_000  # of a request's JSON: each stands before another of its values, or in a text; base64 has none


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
    max_new_tokens: int | None = None
    max_image_bytes: int = 20_000_000
    max_image_mib: int = 512
    max_waiting_bytes: int = 1_000_000_000
    download_timeout: float = 10.0
    allow_private: bool = False
    shutdown_timeout: float = 30.0


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
    app.add_api_route("/v1/models/{name:path}", server.model, methods=["GET"])
    body = {"required": True, "content": {"application/json": {"schema": ChatRequest.model_json_schema()}}}
    app.add_api_route(
        "/v1/chat/completions", server.chat, methods=["POST"], response_model=None, openapi_extra={"requestBody": body}
    )
    return app


class _Server:
    def __init__(self, engine: Engine, image_processor: VLVImageProcessor, settings: ServerSettings) -> None:
        self._engine, self._settings = engine, settings
        self._metrics = _Metrics()
        self._batcher = Batcher(
            engine, settings.batch_size, settings.batch_wait, settings.queue_limit, self._metrics.batches.observe
        )
        limits = FetchLimits(settings.max_image_bytes, settings.download_timeout, settings.allow_private)
        self._images = ImageReader(image_processor, limits, settings.max_image_mib)
        self._held = HeldBytes(settings.max_waiting_bytes)
        self._created = int(time.time())
        self._taken = 0  # requests whose image is being read, or that are in the batcher

    async def close(self) -> None:
        await asyncio.to_thread(self._batcher.close, self._settings.shutdown_timeout)
        await self._images.close()

    async def health(self) -> dict[str, str]:
        return {"status": "ok"}

    async def show_metrics(self) -> Response:
        self._metrics.load.set(self._taken)
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def models(self, request: Request) -> Response:
        try:
            self._require_token(request)
        except ApiError as error:
            return error.response()
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, name: str, request: Request) -> Response:
        try:
            self._require_token(request)
            self._require_served(name)
        except ApiError as error:
            return error.response()
        return JSONResponse(self._model())

    def _model(self) -> JsonObject:
        return {"id": self._settings.model_name, "object": "model", "created": self._created, "owned_by": "vlv"}

    async def chat(self, request: Request) -> Response:
        """One chat completion; whatever fails is OpenAI's JSON of an error."""
        started = time.monotonic()
        try:
            answer = await self._chat(request, started)
        except ApiError as error:
            answer = error.response()
        except Exception:  # noqa: BLE001  (a defect: the client hears of it in the API's form, and the log has it)
            _log.exception("a chat completion failed")
            answer = answers.failed().response()
        if not isinstance(answer, StreamingResponse):  # else counted at its end
            self._count(answer.status_code, started)
        return answer

    def _count(self, status: int, started: float) -> None:
        self._metrics.requests.labels(str(status)).inc()
        self._metrics.seconds.observe(time.monotonic() - started)

    async def _chat(self, request: Request, started: float) -> Response:
        self._require_token(request)
        if self._taken >= self._settings.queue_limit:
            raise answers.busy()
        self._taken += 1
        ticket = None
        try:
            # Also a client that sends its body a byte at a time is given up.
            async with asyncio.timeout(self._settings.request_timeout):
                with self._held.of_request() as take:
                    asked = await self._read(request, take)
                    pixels = await self._images.read(asked.take_image_url(), take)
                ticket = self._submit(asked, pixels, started + self._settings.request_timeout)
            if asked.stream:
                return StreamingResponse(self._stream(asked, ticket, started), media_type="text/event-stream")
            said = await self._result(ticket, request)
            choices = answers.choices(said)
            return JSONResponse({**self._head("chat.completion"), "choices": choices, "usage": self._usage(said)})
        except QueueFullError:
            raise answers.busy() from None
        except ClosedError:
            raise ApiError(503, "server_error", "the server is shutting down", 5) from None
        except (TimeoutError, ClientDisconnect):  # who has gone in the middle of the request does not hear it
            raise answers.late(self._settings.request_timeout) from None
        except ImageError as error:
            raise ApiError(400, "invalid_request_error", str(error)) from None
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
            raise ApiError(401, "authentication_error", "the bearer token is missing or wrong")

    def _require_served(self, model: str) -> None:
        if model != self._settings.model_name:
            raise answers.unknown_model(model, self._settings.model_name)

    async def _read(self, request: Request, take: Callable[[int], None]) -> ChatRequest:
        most = 2 * self._settings.max_image_bytes + _BODY_MORE  # base64, and JSON around it
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise ApiError(413, "invalid_request_error", f"the request is larger than {most / 1e6:g} MB")
            take(len(part))
        # Each takes far more time and memory than its bytes: a request of nothing else would stop the server for long.
        if body.count(b",") > _MOST_COMMAS:
            told = f"the request has more than {_MOST_COMMAS} commas: leave out messages that are not needed"
            raise ApiError(413, "invalid_request_error", told)
        try:
            asked = ChatRequest.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the request"
            raise ApiError(400, "invalid_request_error", f"{place}: {first['msg']}") from None
        self._require_served(asked.model)
        if (asked.n or 1) > 1 and not asked.temperature:
            raise ApiError(400, "invalid_request_error", "n: several captions are sampled, give a temperature above 0")
        return asked

    def _submit(self, asked: ChatRequest, pixels: Tensor, deadline: float) -> Ticket:
        temperature, count = asked.temperature or 0.0, asked.n or 1
        seed = random.getrandbits(62) if asked.seed is None else asked.seed
        seeds = [mix_seed(seed, number) for number in range(count)]
        # Lowered, not refused: clients send a large number for "as long as it takes".
        longest = self._settings.max_new_tokens or self._engine.max_new_tokens
        limit = min(asked.max_completion_tokens or asked.max_tokens or longest, longest)
        wanted = Asked(self._settings.num_beams if not temperature else 1, temperature, count, limit)
        return self._batcher.submit(pixels, wanted, seeds, bool(asked.stream), deadline)

    async def _result(self, ticket: Ticket, request: Request) -> list[Said]:
        """The captions; a request that is given up, or whose client has gone, does not occupy the engine any more."""
        # A client that has gone would keep its place in the queue else, and the next batch would caption for nobody.
        gone = asyncio.create_task(_gone(request))
        try:
            left = ticket.deadline - time.monotonic()
            await asyncio.wait({gone, ticket.result}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not ticket.result.done():
                ticket.given_up.set()
                raise TimeoutError
            return ticket.result.result()
        finally:
            gone.cancel()

    def _head(self, kind: answers.Kind) -> JsonObject:
        return answers.head(kind, self._settings.model_name)

    def _usage(self, said: list[Said]) -> dict[str, int]:
        tokens = sum(one.tokens for one in said)
        self._metrics.tokens.inc(tokens)
        image = self._engine.prompt_tokens
        return {"prompt_tokens": image, "completion_tokens": tokens, "total_tokens": image + tokens}

    async def _stream(self, asked: ChatRequest, ticket: Ticket, started: float) -> AsyncIterator[str]:
        head, status = self._head("chat.completion.chunk"), 200

        def chunk(choices: list[JsonObject], **more: object) -> str:
            return answers.event({**head, "choices": choices, **more})

        assert ticket.parts is not None
        try:
            for place in range(ticket.asked.count):
                yield chunk(answers.part(place, {"role": "assistant", "content": ""}))
            async with asyncio.timeout(ticket.deadline - time.monotonic()):
                while (part := await ticket.parts.get()) is not None:
                    yield chunk(answers.part(part[0], {"content": part[1]}))
                said = await ticket.result
            for place, one in enumerate(said):
                yield chunk(answers.part(place, {}, answers.finish_reason(one)))
            usage = self._usage(said)
            if asked.stream_options is not None and asked.stream_options.include_usage:
                yield chunk([], usage=usage)
            yield "data: [DONE]\n\n"
        except Exception as error:  # noqa: BLE001  (the answer has begun: what is wrong can only be its end)
            if isinstance(error, TimeoutError):
                told = answers.late(self._settings.request_timeout)
            else:
                _log.exception("a streamed chat completion failed")
                told = answers.failed()
            status = told.status
            yield answers.event(told.body)
        finally:
            ticket.given_up.set()  # where the client has gone
            self._count(status, started)


async def _gone(request: Request) -> None:
    """Returns once the client has closed the connection; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
