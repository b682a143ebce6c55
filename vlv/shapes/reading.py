"""Sentences of a description, read phrase by phrase from left to right."""

from __future__ import annotations

from collections.abc import Callable

from vlv.shapes.clauses import GROUPS, Clause, Nouns
from vlv.shapes.phrases import read_attributes, read_ground, read_noun, read_opening
from vlv.shapes.places import Place, read_place, read_relations
from vlv.shapes.words import (
    ATTRIBUTES,
    BE,
    CONJUNCTIONS,
    HOLDING,
    JOINERS,
    OCCUPYING,
    PREPOSITIONS,
    SEEN,
    STANDING,
    VERBS,
    Cursor,
    is_known,
)

_ENDS = frozenset({",", "too", "also", "well"})  # joints that a sentence may end with
_CORNERS = frozenset({"the corners", "in the corners", "the four corners", "in the four corners"})


class Reader(Nouns):
    """Reads sentence after sentence: each phrase by the first construct that knows it; what none knows is a fault."""

    def read(self, words: list[str]) -> None:
        """Read one sentence: each phrase by the first construct that knows it; what none knows is a fault."""
        self.drafts.sentence += 1
        self._clause = Clause(earlier=self._clause.subject or self._clause.earlier)
        cursor, stray, question = Cursor(words), [], words[-1] == "?"  # which states nothing
        while not cursor.done:
            start = cursor.at
            known = "" if question else self._take(cursor)
            if known:
                self._unread(stray)
                self._clause.after = known
                # What joins must join two things: at the sentence's end it is left over.
                dangles = known == "joint" and cursor.done and not set(words[start:]) & _ENDS
                stray = words[start:] if dangles else []
            else:
                self._stray(cursor)
                stray += words[start : cursor.at]
        self._unread(stray)
        self._end()

    def _take(self, cursor: Cursor) -> str:
        """Pass over a phrase; the name of the construct that knows it, empty where none does."""
        constructs: dict[str, Callable[[Cursor], bool]] = {
            "opening": self._opening, "ground": self._ground, "relation": self._relation, "place": self._place,
            "noun": self._noun, "relative": self._relative, "pronoun": self._pronoun, "attributes": self._attributes,
            "negation": self._negation, "verb": self._verb, "joint": self._joint,
        }  # fmt: skip
        start = cursor.at
        for name, construct in constructs.items():
            if construct(cursor):
                return name
            cursor.at = start
        return ""

    def _stray(self, cursor: Cursor) -> None:
        """Pass over a word that no construct knows: "next to" takes "the star" along, of which it tells."""
        self._clause.verb, self._clause.after = False, ""
        cursor.at += 1
        ahead = cursor.copy()
        phrase = read_noun(ahead) if self._clause.focus else None
        if phrase and phrase.kind == "the":
            cursor.at = ahead.at

    def _end(self) -> None:
        clause = self._clause
        for place, words in clause.fronted:
            if len(clause.subject) == 1 and clause.subject[0].placed == self.drafts.sentence:
                self.drafts.put(clause.subject, place)
            else:
                self._unread([words])
        self._unread([words for _, _, words in clause.links][:1])
        self._unread(["not"] if clause.denied else [])
        self.drafts.end_sentence()

    def _opening(self, cursor: Cursor) -> bool:
        clause, within = self._clause, cursor.word in PREPOSITIONS  # "in the picture" may stand anywhere
        begins = clause.after in ("", "opening", "joint", "place", "relation", "ground")
        if not (within or begins) or not read_opening(cursor):
            return False
        if not within:
            clause.subject, clause.focus, clause.verb = [], [], False
        return True

    def _ground(self, cursor: Cursor) -> bool:
        ground = read_ground(cursor)
        if ground is None:
            return self._other_ground(cursor)
        self._unread(list(ground.strange))
        if ground.color:
            (self.denied_grounds if ground.denied or self._clause.denied else self.grounds).append(ground.color)
            self._clause.denied = False
        self._clause.topic = True
        return True

    def _other_ground(self, cursor: Cursor) -> bool:
        """ "The background is gray, not black"."""
        clause = self._clause
        kind, color = ATTRIBUTES.get(cursor.word, ("", ""))
        if not (clause.denied and clause.topic and self.grounds) or clause.focus or kind != "color":
            return False
        self.denied_grounds.append(color)
        clause.denied = False
        cursor.at += 1
        return True

    def _relation(self, cursor: Cursor) -> bool:
        start, clause = cursor.at, self._clause
        relations = read_relations(cursor)
        targets = self._targets(cursor) if relations else []
        if not targets:
            cursor.at = start
            return False
        if not clause.focus or (clause.joint and self._introduces(cursor.copy())):
            words = cursor.said_since(start)
            clause.links += [(relation, target, words) for relation in relations for target in targets]
        else:
            for first in clause.focus:
                self._link(first, relations, targets, clause.denied)
            clause.denied = False
        clause.focus, clause.object, clause.verb = targets, targets, False
        if not clause.subject:
            clause.focus = []
        return True

    def _place(self, cursor: Cursor) -> bool:
        start, clause = cursor.at, self._clause
        if not clause.focus and cursor.take(_CORNERS):
            clause.fronted += [(Place(row, column), cursor.said_since(start)) for row in (0, 2) for column in (0, 2)]
            return True
        if not self._may_place(cursor.word):
            return False
        place = read_place(cursor)
        if place is None:
            return False
        placed = bool(clause.focus) and all(draft.place for draft in clause.focus)
        ahead = cursor.copy()
        if not clause.focus or (clause.joint and (placed or self._introduces(ahead))):
            clause.fronted.append((place, cursor.said_since(start)))
            if clause.joint:
                clause.subject, clause.focus = clause.subject if cursor.done else [], []
        elif clause.denied and place.name:
            for draft in clause.focus:
                self.drafts.deny({"place": place.name}, draft)
            clause.denied = False
        elif not self.drafts.put(clause.focus, place):
            return False
        clause.verb = False
        return True

    def _may_place(self, word: str) -> bool:
        """Whether a place that begins with this word may come: one without preposition only where it stands alone."""
        clause = self._clause
        if word in PREPOSITIONS:
            return True
        if clause.after == "place":
            return False
        return word != "the" or not clause.focus or clause.after == "joint" or clause.holding

    def _relative(self, cursor: Cursor) -> bool:
        start, clause = cursor.at, self._clause
        if not cursor.take({"which", "that"}) or not cursor.sees(VERBS) or not (clause.focus or clause.last):
            cursor.at = start
            return False
        clause.subject = clause.focus = (clause.joint and clause.last) or clause.focus
        clause.joint = ""
        return True

    def _pronoun(self, cursor: Cursor) -> bool:
        clause, start = self._clause, cursor.at
        if clause.fronted or clause.links:
            return False
        if cursor.take({"it"}):
            found = clause.subject or clause.earlier
        elif cursor.take(GROUPS):
            found = clause.subject if len(clause.subject) > 1 else list(self.drafts.stated)
        else:
            return False
        ahead = cursor.copy()
        also = cursor.words[start] in ("both", "all") and (read_attributes(ahead) or read_ground(ahead))
        told = cursor.sees(VERBS) or also
        if not told or not (found or self.counts):
            cursor.at = start
            return False
        clause.subject = clause.focus = found
        clause.joint, clause.topic = "", not found  # "There is one shape. It is a star."
        return True

    def _attributes(self, cursor: Cursor) -> bool:
        clause = self._clause
        if clause.verb and clause.fronted and cursor.take({"empty"}):
            for place, _ in clause.fronted:
                self.drafts.put([self.drafts.deny({})], place)
            clause.fronted, clause.verb = [], False
            return True
        joined = clause.after in ("verb", "negation", "joint", "pronoun")
        joined = joined or (clause.after == "noun" and (clause.something or cursor.word in ("in", "with")))
        found = read_attributes(cursor) if clause.focus and joined else []
        for draft in clause.focus:
            for name, value in found:
                if clause.denied:
                    self.drafts.deny({name: value}, draft)
                else:
                    self.drafts.say(draft, name, value)
        if found:
            clause.denied = clause.verb = False
        return bool(found)

    def _negation(self, cursor: Cursor) -> bool:
        if self._clause.denied or not cursor.take({"not", "neither"}):
            return False
        self._clause.denied = True
        return True

    def _verb(self, cursor: Cursor) -> bool:
        start, clause = cursor.at, self._clause
        verb = None if clause.after in ("verb", "negation") else cursor.take(VERBS)
        cursor.take({"also"} if verb else ())
        if verb is None or not self._follows(verb, cursor.copy()):
            cursor.at = start
            return False
        clause.verb, clause.holding = verb in BE, verb in OCCUPYING
        return True

    def _follows(self, verb: str, ahead: Cursor) -> bool:
        """Whether a verb is said of something before it, and what it says comes next."""
        clause = self._clause
        ended = ahead.done or ahead.word in CONJUNCTIONS or ahead.word == ","
        if clause.fronted or clause.links:
            if verb in HOLDING:
                bare = bool(clause.fronted) and clause.fronted[-1][1].split()[0] not in PREPOSITIONS
                return bare and read_noun(ahead) is not None
            if verb in BE and ahead.word in ("empty", "not", "neither"):
                return True
            return verb in BE | STANDING and read_noun(ahead) is not None
        if verb in HOLDING or not (clause.subject or clause.focus or clause.topic):
            return False
        # Before a word that nothing knows the verb is right: the word is what is left over.
        if (verb in SEEN and ended) or not (ended or is_known(ahead.word)):
            return True
        if verb in BE and read_noun(ahead.copy()):
            return True
        if not clause.focus:
            return ahead.word in PREPOSITIONS and read_ground(ahead) is not None
        return self._goes_on(ahead, attributes=verb in BE)

    def _goes_on(self, ahead: Cursor, attributes: bool = True) -> bool:
        """Whether something comes next that may be said of a thing."""
        if ahead.word in ("not", "neither") or (attributes and read_attributes(ahead.copy())):
            return True
        if ahead.word in PREPOSITIONS and read_ground(ahead.copy()):
            return True
        if ahead.word in PREPOSITIONS and read_opening(ahead.copy()):  # "is in the picture"
            return True
        return read_place(ahead.copy()) is not None or bool(read_relations(ahead.copy()))

    def _joint(self, cursor: Cursor) -> bool:
        clause = self._clause
        start, denies = cursor.at, any(draft.sentence == self.drafts.sentence for draft in self.drafts.denials)
        joint = cursor.take(JOINERS | {","} | ({"or", "nor"} if denies else set()))
        if joint is None or (joint in CONJUNCTIONS and not self._may_join(joint, cursor.copy())):
            cursor.at = start
            return False
        clause.denied = clause.denied or joint in ("or", "nor")
        clause.last = clause.focus if not clause.joint else clause.last
        clause.joint = joint
        clause.focus, clause.verb = clause.subject, False
        return True

    def _may_join(self, joint: str, ahead: Cursor) -> bool:
        """Whether a conjunction stands between two things that it may join."""
        clause = self._clause
        if clause.after in ("verb", "negation") or (clause.after == "joint" and clause.joint in CONJUNCTIONS):
            return False
        if (clause.fronted or clause.links) and not read_place(ahead.copy()):
            return False
        if joint == "with":
            noun, ground = read_noun(ahead.copy()), read_ground(ahead.copy())
            return clause.after != "" and bool(noun or ground or ahead.word == ",")
        return True
