"""Phrases of a description: nouns with what is said of them, attributes, backgrounds, openings of sentences.

Each reader passes over its phrase and returns what it says, or returns None and leaves the cursor where it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vlv.shapes.places import read_place, read_spot, takes_image
from vlv.shapes.words import (
    ABSTRACT,
    ATTRIBUTES,
    BE,
    COLORED,
    COUNTS,
    FUNCTION_WORDS,
    IMAGES,
    NOUNS,
    OPENERS,
    SHOWING,
    VERBS,
    Cursor,
)

Said = dict[str, str]  # attribute (size, texture, color, shape, place) -> value

_PLAIN = frozenset(["plain", "solid", "uniform", "flat", "simple", "blank", "clean"])
_BACKGROUNDS = frozenset({"background", "backdrop"})
_ARTICLES = frozenset({"a", "an", "another", "a second", "a third"})
_DEFINITE = frozenset({"the", "this", "that", "these", "both", "both the", "all", "all the"})
_NONE = frozenset({"no", "any", "no other", "any other", "without", "without a", "without an", "without any"})
_OTHER = frozenset({"the other", "the first", "the second", "the third", "the fourth", "the last"})
_STRIPES = frozenset({"with stripes", "has stripes", "have stripes", "with a striped pattern"})


@dataclass
class NounPhrase:
    """A noun with what is said before it.

    kind: "a", "the", "no", "other" (the other, the first ...) or "bare". number: of things, None where an article or
    plural leaves it open. strange: words that are not known. extra: words that say a thing again.
    clash: (earlier, later) value of what is said twice, differently. other: "no other shapes".
    """

    kind: str = "bare"
    noun: str = ""
    number: int | None = None
    plural: bool = False
    said: Said = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    clash: tuple[str, str] | None = None
    other: bool = False

    def say(self, attribute: str, value: str) -> None:
        """One more attribute."""
        if self.said.setdefault(attribute, value) != value:
            self.clash = (self.said[attribute], value)

    @property
    def generic(self) -> bool:
        """Whether the noun leaves the shape open: shape, one, something."""
        return "shape" not in self.said

    @property
    def many(self) -> bool:
        """Whether its number is more than one."""
        return (self.number or 1) > 1

    @property
    def counts(self) -> bool:
        """Whether it says a number of shapes, and nothing of them."""
        return not self.said and self.number is not None and self.noun not in ("one", "something")


@dataclass(frozen=True)
class Ground:
    """A background: its colour, None where it is only called plain, and words that are not known."""

    color: str | None
    denied: bool
    strange: tuple[str, ...]


def read_ground(cursor: Cursor) -> Ground | None:
    """Pass over "on a plain white background", "the background is gray", "on white"."""
    start = cursor.at
    prepared = cursor.take({"on", "against", "over", "upon", "in front of", "of", "set on", "set against"})
    article = cursor.take({"a", "an", "the", "its", "this"})
    color, strange = _read_shade(cursor)
    if cursor.take(_BACKGROUNDS):
        denied = False
        if cursor.take({"of"}):
            takes_image(cursor)
        cursor.take({"color", "colour"})
        if color is None and not strange:
            color, denied, strange = _read_shade_after(cursor)
        return Ground(color, denied, tuple(strange))
    alone = cursor.done or cursor.word in (",", "and", "with")
    if prepared and article is None and color and not strange and alone:
        return Ground(color, False, ())
    cursor.at = start
    return None


def _read_shade_after(cursor: Cursor) -> tuple[str | None, bool, list[str]]:
    """The colour in "is gray", "is not gray", ", gray", behind a background that is named without one."""
    start = cursor.at
    if cursor.take(BE | {","}):
        denied = cursor.take({"not"}) is not None
        cursor.take({"a", "an"})
        color, strange = _read_shade(cursor)
        if color or (cursor.done and not strange):
            return color, denied, strange
    cursor.at = start
    return None, False, []


def _read_shade(cursor: Cursor) -> tuple[str | None, list[str]]:
    """A colour among words like "plain"; other unknown words beside it are strange."""
    color, strange = None, []
    while not cursor.done:
        word = cursor.word
        known = ATTRIBUTES.get(word, ("", ""))
        if known[0] == "color" and color is None:
            color = known[1]
        elif word not in _PLAIN and word not in COLORED and not _joins_shades(cursor):
            if word in FUNCTION_WORDS or word in NOUNS or word in _BACKGROUNDS or known[0]:
                break
            strange.append(word)
        cursor.at += 1
    return color, strange


def _joins_shades(cursor: Cursor) -> bool:
    """Whether the next word joins two words of a shade, as in "plain and white"."""
    following = "".join(cursor.words[cursor.at + 1 : cursor.at + 2])
    shade = following in _PLAIN or ATTRIBUTES.get(following, ("", ""))[0] == "color"
    return cursor.word in ("and", ",") and shade and read_noun(cursor.copy(1)) is None


def read_opening(cursor: Cursor) -> bool:
    """Pass over "there is", "we see", "the image shows", "a picture of", "in this picture"; whether one came next."""
    start = cursor.at
    if cursor.take(OPENERS):
        return True
    within = cursor.take({"in", "on", "within"})
    if cursor.take({"the", "this", "a", "an", "our"}) and cursor.take(IMAGES) and (within or cursor.take(SHOWING)):
        return True
    cursor.at = start
    return False


def read_attributes(cursor: Cursor) -> list[tuple[str, str]]:
    """Pass over "small", "large, striped and red", "with stripes", "in red"."""
    found: list[tuple[str, str]] = []
    while True:
        start = cursor.at
        if found:
            cursor.take({",", "and", ", and"})
        if cursor.take(_STRIPES):
            found.append(("texture", "striped"))
            continue
        cursor.take({"in", "very"})
        # "Small and red stars ...": what a noun follows begins another phrase.
        if cursor.word not in ATTRIBUTES or read_noun(cursor.copy()):
            cursor.at = start
            return found
        found.append(ATTRIBUTES[cursor.word])
        cursor.at += 1
        cursor.take(COLORED)
        cursor.take({"in color", "in colour", "in size"})


def read_noun(cursor: Cursor, target: bool = False) -> NounPhrase | None:
    """Pass over "a small, striped red star", "two circles", "the other one", "no other shapes", "something".

    Args:
        target: behind a relation, where "the hexagon" is a thing and not unread words.
    """
    start = cursor.at
    if cursor.take({"something", "nothing", "nothing else"}):
        said = cursor.said_since(start)
        return NounPhrase("no" if said != "something" else "a", "something", other=said == "nothing else")
    phrase = _read_determiner(cursor)
    one = cursor.at > start and cursor.words[cursor.at - 1] in ("one", "another")
    alone = phrase.kind == "other" or one
    _read_modifiers(cursor, phrase)
    if _read_head(cursor, phrase, target):
        return phrase
    if alone and not phrase.strange:  # "one at the top and one on the right"
        phrase.noun = "one"
        return phrase
    cursor.at = start
    return None


def _read_determiner(cursor: Cursor) -> NounPhrase:
    phrase = NounPhrase()
    if cursor.take(_OTHER):
        phrase.kind = "other"
    elif cursor.take(_NONE):
        phrase.kind, phrase.other = "no", cursor.words[cursor.at - 1] == "other"
    elif number := cursor.take(COUNTS):
        phrase.kind, phrase.number = "a", COUNTS[number]
    elif cursor.take(_DEFINITE):
        phrase.kind = "the"
        number = cursor.take({word for word in COUNTS if word != "one"})
        phrase.number = COUNTS[number] if number else None
    elif cursor.take(_ARTICLES):
        phrase.kind = "a"
    return phrase


def _read_modifiers(cursor: Cursor, phrase: NounPhrase) -> None:
    """Attributes in any order, joined or not; a place after "the"; up to two unknown words."""
    if phrase.kind == "the" and (place := read_spot(cursor)):
        phrase.said |= {"place": place.name} if place.name else {}
    while not cursor.done:
        start = cursor.at
        if phrase.said and phrase.kind != "bare":
            cursor.take({",", "and", ", and"})
        cursor.take({"very"})
        word = cursor.word
        if word in ATTRIBUTES:
            name, value = ATTRIBUTES[word]
            if phrase.said.get(name) == value:
                phrase.extra.append(word)
            phrase.say(name, value)
        elif cursor.at > start or word in NOUNS or word in FUNCTION_WORDS or len(phrase.strange) == 2:
            cursor.at = start
            return
        elif word not in COLORED:
            # Without article or attribute before it, an unknown word is no part of a noun phrase.
            loose = phrase.kind == "bare" and not phrase.said
            if loose or word in IMAGES or word in _BACKGROUNDS or not word.isalpha():
                return
            phrase.strange.append(word)
        cursor.at += 1


def _read_head(cursor: Cursor, phrase: NounPhrase, target: bool) -> bool:
    word = cursor.word
    if word in NOUNS:
        shape, phrase.plural = NOUNS[word]
        phrase.noun = word
        cursor.at += 1
        if shape:  # "a star shape", "a heart-shaped object", "star shapes"
            cursor.take({"shaped"})
            if NOUNS.get(cursor.word, ("", False))[0] is None and cursor.word != "one":
                phrase.plural = NOUNS[cursor.word][1]
                cursor.at += 1
        single = phrase.number == 1 or (phrase.kind == "a" and phrase.number is None)
        if (phrase.plural and single) or (phrase.many and not phrase.plural):
            return False
        if shape is None and phrase.strange:  # "a hexagonal shape"
            shape = phrase.strange.pop()
        if shape:
            phrase.say("shape", shape)
        return phrase.kind != "bare" or shape is not None
    return _read_unknown_head(cursor, phrase, target)


def _read_unknown_head(cursor: Cursor, phrase: NounPhrase, target: bool) -> bool:
    """A thing that the world does not have: "a large pink hexagon", "the dog is"; no "near the edge"."""
    if not phrase.strange or phrase.strange[-1] in ABSTRACT or cursor.word in IMAGES:
        return False
    # After "the", an unknown noun is one of a thing where something is said of it: "the dog is ...".
    subject = target or cursor.sees(VERBS) or read_place(cursor.copy()) is not None
    if phrase.kind in ("the", "other") and not subject:
        return False
    if phrase.kind == "bare" and BE & set(cursor.words[max(0, cursor.at - 3) : cursor.at]):  # "is red there"
        return False
    phrase.noun = phrase.strange.pop()
    phrase.plural = phrase.noun.endswith("s") and phrase.many
    ending = 2 if phrase.noun.endswith(("xes", "ches", "shes", "sses")) else 1
    phrase.say("shape", phrase.noun[:-ending] if phrase.plural else phrase.noun)
    return True
