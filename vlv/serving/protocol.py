"""What is read of OpenAI's chat completions."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from vlv.serving.urls import ImageError

_MOST_CHOICES = 16


class _ImageUrl(BaseModel):
    url: str


class _Part(BaseModel):
    type: str
    image_url: _ImageUrl | str | None = None


class _Message(BaseModel):
    role: str
    content: str | list[_Part] | None = None


class _StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """What is read of a chat completion; the rest of the protocol is left out in silence, as the text of messages is:
    the captioner takes no instructions.
    """

    model: str
    messages: list[_Message]
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2, allow_inf_nan=False)] = None
    n: Annotated[int | None, Field(ge=1, le=_MOST_CHOICES)] = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    def take_image_url(self) -> str:
        """The URL of the image of the last user message that has one.

        The messages are let go: their URLs may hold whole images, for which nobody has a use any more.

        Raises:
            ImageError: no user message has one, or that message has several.
        """
        messages, self.messages = self.messages, []
        for message in reversed(messages):
            parts = message.content if message.role == "user" and isinstance(message.content, list) else []
            urls = [part.image_url for part in parts if part.type == "image_url" and part.image_url is not None]
            if len(urls) > 1:
                raise ImageError(f"{len(urls)} images were given in one message: a message has one")
            if urls:
                return urls[0] if isinstance(urls[0], str) else urls[0].url
        raise ImageError("0 images were given: a user message has one, as a part of type image_url")
