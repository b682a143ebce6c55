"""How many words of a caption are its reference's, and the other way round."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from vlv.evaluation.interface import CaptionMeasure


def word_f1(captions: Sequence[str], references: Sequence[str]) -> float:
    """Mean over captions of the F1 of shared words, counted with repetitions, without case and punctuation.

    The measure of SQuAD's answers (Rajpurkar et al., 2016), but for its removal of English articles: it needs no
    word list and no other package, and is 1 where all words agree. It does not look at their order.
    """
    return fmean(
        _f1(_words(caption), _words(reference)) for caption, reference in zip(captions, references, strict=True)
    )


def _f1(caption: Counter[str], reference: Counter[str]) -> float:
    if not caption and not reference:
        return 1.0
    # The harmonic mean of precision and recall, with the shared words' number cancelled.
    return 2 * (caption & reference).total() / (caption.total() + reference.total())


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.casefold()))


MEASURE = CaptionMeasure(
    name="word_f1",
    meaning="Share of words that a caption and its reference have in common, mean over the captions",
    better="higher",
    compute=word_f1,
)
