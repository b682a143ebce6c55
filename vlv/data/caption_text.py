"""What a caption must be, whoever reads it."""

from __future__ import annotations

from vlv.data.sample import BadSample


def require_text(caption: str) -> None:
    """Check that a caption is text that can be encoded, and not blank.

    Raises:
        BadSample: it is not.
    """
    try:
        caption.encode()
    except UnicodeEncodeError as error:  # JSON can write half of a character, which no tokenizer takes
        raise BadSample(f"the caption is no valid text: a lone surrogate at character {error.start}") from None
    if not caption.strip():
        raise BadSample("the caption is empty")
