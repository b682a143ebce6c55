"""What all calls with one destination came to: captions, what was left out and why, lengths, tokens, cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import get_args

from vlv.config import CaptionApiConfig
from vlv.datatools.answers import Outcome, Record
from vlv.datatools.distribution import Distribution, bars, of_counts, summary

_MEANINGS: dict[Outcome, str] = {
    "refused": "the model refuses, or a filter does",
    "rejected": "the endpoint does not take the request",
    "empty": "an answer without text",
    "cut": "an answer that max_tokens cut",
    "unreadable": "an image that cannot be read",
    "failed": "no answer after all tries: the same call asks again",
}


@dataclass
class Tally:
    """The newest record of each image, and what all records together cost."""

    newest: dict[str, Record] = field(default_factory=dict)
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    longest_prompt: int = 0
    troubles: Counter[str] = field(default_factory=Counter)

    def needs_no_request(self, name: str, ask_again: bool) -> bool:
        """Whether an image is done; with `ask_again` only a caption is, and what cannot be read."""
        outcome = self.newest[name]["outcome"] if name in self.newest else "failed"
        return outcome in ("caption", "unreadable") or (outcome != "failed" and not ask_again)


@dataclass(frozen=True)
class Report:
    """The facts of report.json.

    outcomes: images by outcome. failed_tries: requests without an answer, by kind. cost, cost_per_1000_images: None
    without a price; the second is of images that were sent.
    """

    images: int
    not_asked: int
    outcomes: dict[Outcome, int]
    requests: int
    failed_tries: dict[str, int]
    prompt_tokens: int
    completion_tokens: int
    words: Distribution | None
    cost: float | None
    cost_per_1000_images: float | None

    @property
    def unanswered(self) -> int:
        """Images that a later call asks for."""
        return self.not_asked + self.outcomes["failed"]


def tally(records: Iterable[Record]) -> Tally:
    """Count a journal's records, in the order in which they were written."""
    found = Tally()
    for record in records:
        found.newest[record["name"]] = record
        found.requests += record["requests"]
        found.prompt_tokens += record["prompt_tokens"]
        found.completion_tokens += record["completion_tokens"]
        found.longest_prompt = max(found.longest_prompt, record["prompt_tokens"])
        found.troubles.update(record["troubles"])
    return found


def report(found: Tally, names: Collection[str], config: CaptionApiConfig) -> Report:
    """The facts on the images of these names; the cost is that of all records."""
    records = [found.newest[name] for name in names if name in found.newest]
    outcomes = Counter(record["outcome"] for record in records)
    sent = sum(1 for record in found.newest.values() if record["requests"])
    cost = _cost(found, config)
    return Report(
        images=len(names),
        not_asked=len(names) - len(records),
        outcomes={outcome: outcomes[outcome] for outcome in get_args(Outcome)},
        requests=found.requests,
        failed_tries=dict(found.troubles.most_common()),
        prompt_tokens=found.prompt_tokens,
        completion_tokens=found.completion_tokens,
        words=of_counts([len(record["text"].split()) for record in records if record["outcome"] == "caption"]),
        cost=cost,
        cost_per_1000_images=None if cost is None else 1000 * cost / max(1, sent),
    )


def lines(facts: Report) -> list[str]:
    """The report for a terminal."""
    shown = [f"{facts.images:,} images: {facts.outcomes['caption']:,} captions"]
    shown += [f"  {facts.outcomes[kind]:,} {kind}: {text}" for kind, text in _MEANINGS.items() if facts.outcomes[kind]]
    if facts.not_asked:
        shown.append(f"  {facts.not_asked:,} not asked yet")
    cost = ""
    if facts.cost is not None:
        cost = f": {facts.cost:,.2f} in all, {facts.cost_per_1000_images:,.2f} for 1,000 images"
    tokens = f"{facts.prompt_tokens:,} tokens of prompts and {facts.completion_tokens:,} of answers"
    shown.append(f"{facts.requests:,} requests, {tokens}{cost}")
    if facts.failed_tries:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in facts.failed_tries.items())
        shown.append(f"tries that failed: {kinds}")
    if facts.words is not None:
        shown += [f"words: {summary(facts.words)}", *bars(facts.words)]
    return shown


def _cost(found: Tally, config: CaptionApiConfig) -> float | None:
    if config.price_prompt is None and config.price_completion is None:
        return None
    prompts = found.prompt_tokens * (config.price_prompt or 0)
    return (prompts + found.completion_tokens * (config.price_completion or 0)) / 1e6
