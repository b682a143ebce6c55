"""Nouns within the clause that they stand in: what they bring up, count, deny, or refer to."""

from __future__ import annotations

from dataclasses import dataclass, field

from vlv.shapes.drafts import Draft, Drafts, Link
from vlv.shapes.phrases import NounPhrase, read_ground, read_noun, read_opening
from vlv.shapes.places import Place, read_place
from vlv.shapes.words import VERBS, Cursor

GROUPS = frozenset({"they", "them", "both", "all", "all of them", "both of them"})


@dataclass
class Clause:
    """What the sentence so far leaves for its next phrases.

    subject: what the clause is about. earlier: what the one before it was about.
    focus: what was named last, which may be the object of a relation. last: the focus before a comma.
    object: the last object of a relation.
    fronted, links: places and relations that stand before their thing, with their words.
    after: the construct that read the last phrase. verb: that was a form of "to be".
    holding: it takes a place ("occupies the center"). joint: the comma or conjunction since the last thing.
    topic: a number of shapes or a background was named, of which a verb may tell.
    something: the last noun was "something" or "one", which attributes may follow at once.
    """

    subject: list[Draft] = field(default_factory=list)
    earlier: list[Draft] = field(default_factory=list)
    focus: list[Draft] = field(default_factory=list)
    last: list[Draft] = field(default_factory=list)
    object: list[Draft] = field(default_factory=list)
    fronted: list[tuple[Place, str]] = field(default_factory=list)
    links: list[tuple[str, Draft, str]] = field(default_factory=list)
    after: str = ""
    verb: bool = False
    joint: str = ""
    denied: bool = False
    topic: bool = False
    something: bool = False
    holding: bool = False


class Nouns:
    """What the text has said so far, and how its nouns are taken.

    What its sentences say together is in `drafts`, `grounds`, `counts` and `links`; `faults` names the words that are
    not read.
    """

    def __init__(self) -> None:
        self.drafts = Drafts()
        self.grounds: list[str] = []
        self.denied_grounds: list[str] = []
        self.counts: list[int] = []
        self.links: list[Link] = []
        self.complete = False
        self.faults: list[str] = []
        self._clause = Clause()

    def _unread(self, words: list[str]) -> None:
        if words:
            self.faults.append(f"unparsed: '{' '.join(words).removesuffix(' ?')}'")

    def _noun(self, cursor: Cursor) -> bool:
        clause = self._clause
        # Two nouns in a row are no phrase: something must join them.
        adjacent = clause.after in ("noun", "attributes") or (clause.after == "relation" and not clause.links)
        phrase = None if adjacent else read_noun(cursor)
        if phrase is None:
            return False
        clause.something = phrase.noun in ("something", "one")
        predicate = clause.verb and len(clause.subject) == 1 and not clause.fronted and not clause.links
        if phrase.kind == "no" or clause.denied:
            self._deny(phrase, clause.subject[0] if predicate else None, cursor)
        elif self._counts(phrase, cursor):
            self._unread(phrase.strange + phrase.extra)
            self.counts.append(phrase.number or 1)
            clause.subject, clause.focus, clause.topic = [], [], True
        elif predicate:
            self._check(phrase)
            for name, value in phrase.said.items():
                self.drafts.say(clause.subject[0], name, value)
            clause.focus = clause.subject
        else:
            found = self._spoken_of(phrase, cursor)
            clause.earlier = clause.subject or clause.earlier
            clause.subject, clause.focus, clause.topic = found, found, not found
            self._give_fronted()
        clause.joint, clause.verb = "", False
        return True

    def _counts(self, phrase: NounPhrase, cursor: Cursor) -> bool:
        """Whether a noun only tells how many shapes there are."""
        ahead = cursor.copy()
        described = read_place(cursor.copy()) is not None
        ahead.take(VERBS)
        grounded = read_ground(ahead) is not None
        if not phrase.generic or phrase.said or phrase.noun in ("one", "something") or self._clause.fronted:
            return False
        if phrase.kind == "the":
            return phrase.number is not None and not self.drafts.stated
        if phrase.number == 1:  # "one shape is a star" brings it up
            return grounded or not (described or cursor.sees(VERBS))
        return phrase.number is not None or grounded

    def _check(self, phrase: NounPhrase) -> None:
        """The faults within a noun phrase."""
        self._unread(phrase.strange + phrase.extra)
        if phrase.clash:
            self.drafts.faults.append("contradiction: {} as {}".format(*phrase.clash))

    def _spoken_of(self, phrase: NounPhrase, cursor: Cursor) -> list[Draft]:
        self._check(phrase)
        if phrase.kind == "the" and not phrase.plural and "place" not in phrase.said:
            # "The star at the top": the place tells which.
            start = cursor.at
            place = read_place(cursor)
            if place and place.name:
                phrase.said["place"] = place.name
            else:
                cursor.at = start
        if phrase.kind in ("the", "other"):
            if phrase.number and phrase.generic and not phrase.said:
                self.counts.append(phrase.number)
            return self.drafts.refer(phrase)
        return self.drafts.introduce(phrase, self._clause.joint)

    def _give_fronted(self) -> None:
        """To the things just named, what stood before them."""
        clause = self._clause
        if clause.subject:
            for place, _ in clause.fronted:
                self.drafts.put(clause.subject, place)
            for relation, target, _ in clause.links:
                self._link(clause.subject[0], [relation], [target], denied=False)
            clause.fronted, clause.links = [], []

    def _deny(self, phrase: NounPhrase, base: Draft | None, cursor: Cursor) -> None:
        clause = self._clause
        clause.denied = False
        self._check(phrase)
        if phrase.other:
            self.complete = True
            return
        contrast = clause.subject if phrase.kind != "no" and not base and not clause.fronted else []
        if contrast and phrase.noun == "one":  # "a small star, not a large one"
            base = contrast[0]
        denied = [self.drafts.deny(phrase.said, base) for _ in clause.fronted or ("",)]
        for draft, (place, _) in zip(denied, clause.fronted, strict=False):
            self.drafts.put([draft], place)
        clause.fronted = []
        if base:
            clause.subject = clause.focus = [base]
        elif contrast:  # "a circle at the top, not a star": of the same place, unless another one follows
            place = read_place(cursor)
            denied[0].beside = None if place else contrast[0]
            if place:
                self.drafts.put(denied, place)
        else:
            clause.subject = clause.focus = denied

    def _link(self, first: Draft, relations: list[str], targets: list[Draft], denied: bool) -> None:
        if first.kind == "denied":  # "no star is above the circle"
            denied = True
            self.drafts.denials = [draft for draft in self.drafts.denials if draft is not first]
        for draft in (first, *targets):
            draft.linked = True
        self.links += [Link(first, relation, target, denied) for relation in relations for target in targets]

    def _targets(self, cursor: Cursor) -> list[Draft]:
        """The objects of a relation: "the star", "the star and the moon", "it"."""
        clause = self._clause
        pronoun = cursor.take({"it", *GROUPS})
        if pronoun:  # "A star is at the top, and below it is a moon"; "a moon is below it"
            fronted = clause.joint and self._introduces(cursor.copy())
            if pronoun == "it":
                return (clause.subject if fronted else []) or clause.object or clause.earlier
            return [draft for draft in self.drafts.stated if fronted or draft not in clause.focus]
        found: list[Draft] = []
        while True:
            start = cursor.at
            if found and not cursor.take({"and", ", and", "and of"}):
                return found
            phrase = read_noun(cursor, target=True)
            # "... the star and the moon is below": there the moon begins a clause.
            begins = found and (phrase is None or phrase.kind != "the" or cursor.sees(VERBS))
            if phrase is None or begins or phrase.kind == "no":
                cursor.at = start
                return found
            found += self._spoken_of(phrase, cursor)

    def _introduces(self, ahead: Cursor) -> bool:
        """Whether a thing comes next that the phrase before it is of: "on the left is a star", "on the left a star"."""
        read_place(ahead)
        if not ahead.take(VERBS):
            read_opening(ahead)
        phrase = read_noun(ahead)
        return phrase is not None and phrase.kind != "the"
