"""What an endpoint says to one image, and what that is worth: a caption, or a reason why there is none."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, TypedDict

# caption: usable. refused, rejected (a 4xx of this request), empty, cut: an answer, and no caption. unreadable: the
# image was not sent. failed: no answer; a later call asks again.
Outcome = Literal["caption", "refused", "rejected", "empty", "cut", "unreadable", "failed"]
CUT, FILTERED = "length", "content_filter"  # finish_reason

# At the beginning alone: a caption may quote a sign that says "I'm sorry". Apostrophes are straight by then.
_REFUSAL = re.compile(
    r"(?:(?:i'm|i am|we're|we are) (?:very |so |really )?sorry\b"
    r"|(?:sorry|apologies|unfortunately|i apologi[sz]e|my apologies)\b"
    r"|(?:i|we) (?:can't|cannot|can not|won't|will not|(?:am|'m|are) (?:unable|not able)|do not|don't)\b"
    r"|(?:i'm|we're) (?:unable|not able)\b"
    r"|as an (?:ai|artificial)\b)",
    re.IGNORECASE,
)


class Answer(NamedTuple):
    """One answer of the endpoint.

    finish_reason: why it ended: stop, length, content_filter; None where the endpoint does not say.
    refused: the endpoint marks it as a refusal.
    prompt_tokens, completion_tokens: what it cost; None where the endpoint does not say.
    """

    text: str
    finish_reason: str | None
    refused: bool
    prompt_tokens: int | None
    completion_tokens: int | None


class Record(TypedDict):
    """What came of one image in one call, as the journal holds it.

    text: the caption, and of every other outcome the reason. requests: all tries. troubles: what went wrong with those
    that failed, a word each.
    """

    name: str
    outcome: Outcome
    text: str
    requests: int
    troubles: list[str]
    prompt_tokens: int
    completion_tokens: int


def make_record(name: str, outcome: Outcome, text: str, troubles: list[str], answer: Answer | None = None) -> Record:
    """A record; each trouble was one request, and so was what the endpoint answered or rejected."""
    last = outcome not in ("failed", "unreadable")
    tokens = (0, 0) if answer is None else (answer.prompt_tokens or 0, answer.completion_tokens or 0)
    return Record(
        name=name,
        outcome=outcome,
        text=text,
        requests=len(troubles) + last,
        troubles=troubles,
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
    )


def judge(answer: Answer) -> tuple[Outcome, str]:
    """Return what an answer is and its text in one line, or (outcome, reason) where it is no caption."""
    text = " ".join(answer.text.split())  # training wants no line breaks, and the model may not obey
    if answer.refused or answer.finish_reason == FILTERED:
        return "refused", text or f"finish_reason {answer.finish_reason}"
    if not text:
        return "empty", f"no text, finish_reason {answer.finish_reason}"
    if _REFUSAL.match(text.replace("\u2019", "'")):
        return "refused", text
    if answer.finish_reason == CUT:
        return "cut", f"max_tokens reached after {len(text.split())} words: ...{text[-60:]}"
    return "caption", text
