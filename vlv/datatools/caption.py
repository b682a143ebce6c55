"""Caption the images of any dataset with a model behind an OpenAI-compatible endpoint.

DESTINATION gets captions.json ({name: caption}), left_out.jsonl and report.json. Every answer is kept at once: a killed
call is continued by the same call, which asks for no image twice. The key comes from the environment alone.
Exit codes: 0 every image has an answer, 1 some have none, 2 a call that cannot work, 3 a budget is spent,
130 interrupted.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from vlv.cli.entry import BAD_CALL, FAILED_RUN, INTERRUPTED, Call, parse, stop
from vlv.config import CaptionApiConfig, ConfigError
from vlv.datatools.endpoint import EndpointError

if TYPE_CHECKING:
    from vlv.data.sample import SampleSource
    from vlv.datatools.answers import Record
    from vlv.datatools.caption_report import Report, Tally
    from vlv.inference.journal import Journal

BUDGET_SPENT = 3
_GROUP = 100  # rows of a row group, the unit that the loader reads


def main(arguments: list[str]) -> None:
    """Read the call, ask, and write what is there."""
    call = Call("python -m vlv.datatools.caption", __doc__ or "", ("source", "destination"))
    config = parse(CaptionApiConfig, call, arguments)
    from vlv.cli.lock import place_lock

    folder = Path(config.destination)
    try:
        _check(config)
        with place_lock(f"destination={folder}", folder / ".lock"):
            facts, spent = _caption(config, folder)
    except KeyboardInterrupt:
        stop(f"interrupted; the same call goes on, and {folder} has every answer so far", INTERRUPTED)
    except (EndpointError, OSError) as error:
        stop(f"{error}; {folder} has every answer so far", FAILED_RUN)
    except ValueError as error:
        stop(str(error), BAD_CALL)
    left = f"{facts.unanswered:,} images have no answer"
    if spent is not None:
        stop(f"the budget is spent ({spent}), and {left}: raise it and call again", BUDGET_SPENT)
    if facts.unanswered:
        stop(f"{left}: the same call asks for them again", FAILED_RUN)


def _check(config: CaptionApiConfig) -> None:
    """Check what can be known before anything is opened."""
    if find_spec("openai") is None:
        raise ConfigError("the package openai is missing: pip install 'vlv[caption-api]'")
    if config.api_key() and config.base_url.startswith("http://"):
        host = config.base_url.removeprefix("http://").partition("/")[0].rpartition("@")[2].partition(":")[0]
        if host not in ("localhost", "127.0.0.1"):
            print(f"base_url begins with http://: the key goes to {host} unencrypted", file=sys.stderr)


def _caption(config: CaptionApiConfig, folder: Path) -> tuple[Report, str | None]:
    """Ask for what is left; returns the report, and which budget is spent."""
    from vlv.data.sources import open_source
    from vlv.datatools.budget import Budget
    from vlv.datatools.caption_report import lines, report, tally
    from vlv.datatools.captioning import ANSWERS, Captioning
    from vlv.inference.journal import Journal
    from vlv.inference.processes import ALONE
    from vlv.inference.progress import Progress

    journal = Journal(folder / "journal", 0, config.identity())
    _require_same(journal, folder)
    source = open_source(config.source, replace(config.source_settings(), data_format=config.data_format))
    journal.prepare()
    before = tally(cast("Iterator[Record]", journal.records(ANSWERS)))
    names = [source.name(index) for index in range(len(source))]
    todo = [place for place, name in enumerate(names) if not before.needs_no_request(name, config.ask_again)]
    print(f"{config.source}: {len(names):,} images, {len(names) - len(todo):,} of them have an answer", flush=True)

    budget = Budget(config.max_requests, config.max_tokens_spent, config.max_tokens)
    budget.count_earlier(before.requests, before.prompt_tokens + before.completion_tokens, before.longest_prompt)
    progress = Progress("captions", len(todo), ALONE)
    captioning = Captioning(config, source, journal, budget, progress)
    try:
        asyncio.run(captioning.run(todo))
    finally:
        progress.close()
        after = tally(cast("Iterator[Record]", journal.records(ANSWERS)))
        facts = report(after, names, config)
        _write(config, folder, source, names, after, facts)
        print("\n".join(lines(facts)), flush=True)
    return facts, captioning.budget_spent


def _require_same(journal: Journal, folder: Path) -> None:
    """Refuse to mix captions of different settings.

    Raises:
        ConfigError: the folder's captions were made with others; names them.
    """
    if changes := journal.changes():
        raise ConfigError(
            f"destination={folder} has captions of other settings: {', '.join(changes)}: give the former values, or "
            "another destination"
        )


def _write(
    config: CaptionApiConfig, folder: Path, source: SampleSource, names: list[str], found: Tally, facts: Report
) -> None:
    """Write what the journal holds of these images, each file whole."""
    from vlv.atomic import whole_file, write_whole
    from vlv.datatools.pairs_file import write_pairs
    from vlv.inference.journal import write_json

    records = {name: found.newest[name] for name in sorted(names) if name in found.newest}
    captions = {name: record["text"] for name, record in records.items() if record["outcome"] == "caption"}
    write_json(folder / "captions.json", captions)
    left = [
        {"name": name, "outcome": record["outcome"], "reason": record["text"]}
        for name, record in records.items()
        if record["outcome"] != "caption"
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in left)
    write_whole(folder / "left_out.jsonl", text.encode("utf-8", "backslashreplace"))
    write_json(folder / "report.json", asdict(facts))
    if config.parquet is not None and not facts.unanswered:
        path = Path(config.parquet)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            rows = write_pairs(partial, _row_groups(config, source, names, records))
        print(f"{path}: {rows:,} pairs")


def _row_groups(
    config: CaptionApiConfig, source: SampleSource, names: list[str], records: dict[str, Record]
) -> Iterator[tuple[list[bytes], list[str]]]:
    from vlv.data.sample import BadSample
    from vlv.datatools.sent_image import image_file

    images, captions = [], []
    for index, name in enumerate(names):
        if records[name]["outcome"] != "caption":
            continue
        try:
            images.append(image_file(source.read(index).image, config.decode_settings()))
        except BadSample as error:  # it could be read when it was sent
            print(f"{name}: left out of {config.parquet}: {error}", file=sys.stderr)
            continue
        captions.append(records[name]["text"])
        if len(images) == _GROUP:
            yield images, captions
            images, captions = [], []
    if images:
        yield images, captions


if __name__ == "__main__":
    main(sys.argv[1:])
