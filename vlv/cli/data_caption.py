"""Caption the images of any dataset with a model behind an OpenAI-compatible endpoint.

DESTINATION gets captions.json ({name: caption}), left_out.jsonl and report.json. Every answer is kept at once: a killed
call is continued by the same call, which asks for no image twice. The key comes from the environment alone.
Exit codes: 0 every image has an answer, 1 some have none, 2 a call that cannot work, 3 a budget is spent,
130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vlv.cli.entry import BAD_CALL, FAILED_RUN, INTERRUPTED, Call, parse, stop
from vlv.config import CaptionApiConfig, ConfigError
from vlv.extras import missing_packages

BUDGET_SPENT = 3


def main(arguments: list[str]) -> None:
    """Read the call, ask, and write what is there."""
    config = parse(CaptionApiConfig, Call("vlv data caption", __doc__ or "", ("source", "destination")), arguments)
    from vlv.cli.lock import place_lock
    from vlv.datatools.endpoint import EndpointError

    folder = Path(config.destination)
    try:
        _check(config)
        from vlv.datatools.caption import caption_dataset

        with place_lock(f"destination={folder}", folder / ".lock"):
            facts, spent = caption_dataset(config, folder)
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
    if problem := missing_packages("vlv data caption", "caption-api", "openai"):
        raise ConfigError(problem)
    if config.api_key() and config.base_url.startswith("http://"):
        host = config.base_url.removeprefix("http://").partition("/")[0].rpartition("@")[2].partition(":")[0]
        if host not in ("localhost", "127.0.0.1"):
            print(f"base_url begins with http://: the key goes to {host} unencrypted", file=sys.stderr)
