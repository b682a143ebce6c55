"""The words that the reader of descriptions knows, and a text cut into them."""

from __future__ import annotations

import re
from collections.abc import Collection

from vlv.shapes.describe import NUMBERS, SIZE_WORDS
from vlv.shapes.scene import BACKGROUNDS, COLORS, SHAPES

# What a word says of a shape: (attribute, value). Colours that the world has for no shape are read all the same, so
# that "a white circle" states a circle of a wrong colour.
ATTRIBUTES: dict[str, tuple[str, str]] = {
    **{word: ("size", size) for size, words in SIZE_WORDS.items() for word in words},
    "little": ("size", "small"),
    **{word: ("texture", word) for word in ("solid", "striped", "outlined")},
    **{"hollow": ("texture", "outlined"), "filled": ("texture", "solid"), "stripy": ("texture", "striped")},
    **{color: ("color", color) for color in (*COLORS, *BACKGROUNDS)},
    **{"grey": ("color", "gray"), "violet": ("color", "violet"), "gold": ("color", "gold")},
    **{"silver": ("color", "silver"), "turquoise": ("color", "turquoise"), "crimson": ("color", "crimson")},
}
COLORED = frozenset({"colored", "coloured"})  # "a red-colored star": adds nothing to the colour before it


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("s") else "s")


_GENERIC = ("shape", "object", "figure", "thing", "symbol", "item", "element", "one")
# Nouns: (shape or None where the noun leaves it open, whether it is a plural).
NOUNS: dict[str, tuple[str | None, bool]] = {
    **{shape: (shape, False) for shape in SHAPES},
    **{_plural(shape): (shape, True) for shape in SHAPES},
    **dict.fromkeys(_GENERIC, (None, False)),
    **{_plural(noun): (None, True) for noun in _GENERIC},
}
# Nouns that name no thing of a picture: with one of them a phrase is unread words, not a shape that is not there.
ABSTRACT = _words(
    "row column line edge corner side half third quarter kind way bit lot pattern outline color colour "
    "size distance view style middle center centre top bottom left right space border margin grid total "
    "pair group set"
)
NUMBER_WORDS = (*NUMBERS, "five", "six", "seven", "eight", "nine")
COUNTS = {
    **{word: number for number, word in enumerate(NUMBER_WORDS) if number},
    **{str(number): number for number in range(1, 10)},
    **{"a single": 1, "exactly one": 1, "only one": 1, "just one": 1, "a pair of": 2},
    **{f"{word} {number}": value for word in ("exactly", "only", "just", "a total of") for number, value in (
        ("two", 2), ("three", 3), ("four", 4), ("five", 5))},
}  # fmt: skip
IMAGES = _words("image picture scene photo drawing graphic illustration canvas frame")
PREPOSITIONS = _words("in at on to along against over upon of")
# Verbs, by what may follow them. "A star is at the top", "a star stands at the top", "the top holds a star".
BE = frozenset({"is", "are"})
STANDING = _words("lies lie stands stand sits sit rests rest floats float")
LOCATED = _words("located placed positioned situated")
SEEN = frozenset({"can be seen", "can be found", "be seen", "appears", "appear"})  # may end a sentence
SEEN |= {f"{be} {done}" for be in BE for done in _words("seen shown found drawn visible displayed")}
STANDING |= SEEN | {f"{be} {done}" for be in BE for done in LOCATED}
HOLDING = _words("shows show has have holds hold contains contain")
OCCUPYING = _words("occupies occupy")
VERBS = BE | STANDING | LOCATED | HOLDING | OCCUPYING
SHOWING = _words(
    "shows show showing contains containing has with of depicts depicting features featuring holds "
    "displays includes presents"
) | {"consists of", "is of", "has got", "is made up of"}
OPENERS = frozenset(
    {"there is", "there are", "here is", "here are", "there can be seen", "it shows", "it contains", "it has"}
)
OPENERS |= {"we have", "here we have"}
OPENERS |= {
    f"{who} {sees}"
    for who in ("i", "we", "you", "one")
    for sees in ("see", "sees", "can see", "notice", "find", "can find")
}
# Words that join or order what is said, and say nothing themselves.
ADVERBS = _words("also finally lastly additionally furthermore meanwhile too") | {"in addition", "as well"}
CONJUNCTIONS = _words("and but while whereas plus with where") | {"as well as", "along with", "together with"}
JOINERS = ADVERBS | CONJUNCTIONS
FUNCTION_WORDS = frozenset(
    {word for phrase in (*VERBS, *OPENERS, *SHOWING, *JOINERS, *COUNTS) for word in phrase.split()}
    | _words("a an the this that these both all in at on to of not no or which it they them there , ?")
)
_PLACE_WORDS = _words("top upper bottom lower left right middle center centre central")
_PLACE_WORDS |= _words("above over below under beneath underneath higher lower further")
_CONTRACTIONS = {"n't": " not", "'s": " is", "'re": " are", "'ve": " have"}
_TOKEN = re.compile(r"[^\W\d_]+|\d+|\S")


class Cursor:
    """A place in the words of one sentence."""

    def __init__(self, words: list[str], at: int = 0) -> None:
        self.words, self.at = words, at
        # What may be read at each word, the longest first: joined once, for it is compared many times.
        self._phrases = [
            [(" ".join(words[start : start + length]), length) for length in range(min(4, len(words) - start), 0, -1)]
            for start in range(len(words))
        ]

    def copy(self, ahead: int = 0) -> Cursor:
        """Another cursor at the same place, or so many words ahead, to look further with."""
        other = Cursor.__new__(Cursor)
        other.words, other.at, other._phrases = self.words, self.at + ahead, self._phrases
        return other

    @property
    def done(self) -> bool:
        """Whether no word is left."""
        return self.at >= len(self.words)

    @property
    def word(self) -> str:
        """The next word; empty at the end."""
        return "" if self.done else self.words[self.at]

    def take(self, phrases: Collection[str]) -> str | None:
        """Pass over the longest of these phrases, of up to four words, that comes next, and return it."""
        for phrase, length in () if self.done else self._phrases[self.at]:
            if phrase in phrases:
                self.at += length
                return phrase
        return None

    def sees(self, phrases: Collection[str]) -> bool:
        """Whether one of these phrases comes next."""
        return self.copy().take(phrases) is not None

    def said_since(self, start: int) -> str:
        """The words from `start` to here."""
        return " ".join(self.words[start : self.at])


def split_sentences(text: str) -> list[list[str]]:
    """The words of each sentence; of the punctuation within one, commas are left.

    What is neither word nor punctuation stays as a word that no construct knows.
    """
    text = text.lower().replace("\u2019", "'")
    for short, full in _CONTRACTIONS.items():
        text = re.sub(rf"{short}\b", full, text)
    # Colons, dashes and brackets divide as commas do; a hyphen joins words that are read one by one.
    text = re.sub(r"\s-+\s|^\s*-\s|[:()\u2013\u2014]", " , ", text, flags=re.MULTILINE)
    text = re.sub(r"(?<=\w)-(?=\w)", " ", text)
    text = re.sub(r"[\"\u201c\u201d]", " ", text)
    sentences = re.split(r"[.;!\n]|(?<=\?)", text)
    return [words for words in map(_TOKEN.findall, sentences) if words]


def is_known(word: str) -> bool:
    """Whether any construct has a use for this word."""
    return word in FUNCTION_WORDS or word in NOUNS or word in ATTRIBUTES or word in _PLACE_WORDS
