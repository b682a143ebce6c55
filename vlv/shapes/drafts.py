"""The things that a description speaks of: brought up by one noun, given details by others, referred to again."""

from __future__ import annotations

from dataclasses import dataclass, field

from vlv.shapes.phrases import NounPhrase, Said
from vlv.shapes.places import Place


@dataclass(eq=False)
class Draft:
    """A thing that the text speaks of, and what it has said of it so far.

    kind: "stated"; "named", by a definite noun of which nothing was stated before: it becomes a statement where
    something is said of it; "denied", of which the text says that there is none.
    sentence: which one brought it up. placed: which one gave its place. repeated: which one said that
    again. linked: it stands in a relation.
    open: a later noun of the same sentence may give its details ("two stars, a red one and ...").
    base: of a denied one, the thing whose attributes it shares; beside: that whose place it shares, where it has none.
    """

    said: Said
    kind: str = "stated"
    sentence: int = 0
    open: bool = False
    place: Place | None = None
    placed: int = 0
    repeated: int = 0
    linked: bool = False
    base: Draft | None = None
    beside: Draft | None = None

    @property
    def naming(self) -> Said:
        """What names it in a relation: colour and shape where both are stated, which no two shapes share."""
        if self.kind == "stated" and {"color", "shape"} <= self.said.keys():
            return {name: self.said[name] for name in ("color", "shape")}
        return dict(self.said)

    def fits(self, said: Said) -> bool:
        """Whether nothing in `said` contradicts it."""
        return all(self.said.get(name, value) == value for name, value in said.items())


@dataclass
class Link:
    """A relation of two drafts."""

    first: Draft
    name: str
    second: Draft
    denied: bool


@dataclass
class Drafts:
    """All drafts of a text, with its contradictions. sentence: the number of the one that is read."""

    stated: list[Draft] = field(default_factory=list)
    named: list[Draft] = field(default_factory=list)
    denials: list[Draft] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    sentence: int = 0

    def introduce(self, phrase: NounPhrase, joint: str) -> list[Draft]:
        """What an indefinite noun brings up: new things, or details of one that an earlier noun left open.

        Args:
            joint: the comma or conjunction before it; only behind a comma may it continue the noun right before.
        """
        number = phrase.number or (2 if phrase.plural else 1)
        if number == 1:
            continued = self._continued(phrase, joint)
            if continued:
                continued.open = False
                self._opened(phrase.said, continued)
                return [continued]
        unnamed = phrase.noun == "something" or number > 1
        new = [Draft(dict(phrase.said), sentence=self.sentence, open=unnamed) for _ in range(number)]
        self.stated += new
        return new

    def _continued(self, phrase: NounPhrase, joint: str) -> Draft | None:
        def continues(draft: Draft) -> bool:
            if not draft.fits(phrase.said):
                return False
            if draft.sentence == self.sentence:
                begun = any(d.sentence == self.sentence and not d.open for d in self.stated)
                return draft.open and (joint == "," or phrase.noun == "one" or begun)
            # "There are a star and a moon. A small star is at the top."
            return draft.place is None and (phrase.noun != "one" or draft.open)

        found = [draft for draft in self.stated if continues(draft)]
        return next((d for d in found if not phrase.generic and d.said.get("shape") == phrase.said["shape"]), None) or (
            found[0] if found else None
        )

    def refer(self, phrase: NounPhrase) -> list[Draft]:
        """What a definite noun speaks of; one that fits nothing before it is new."""
        if phrase.kind == "other":
            return self._next(phrase)
        if phrase.plural:
            known = [d for d in self.stated if d.fits(phrase.said) and phrase.said.keys() <= d.said.keys()]
            counted = phrase.generic and phrase.number is not None  # a wrong number is a wrong count
            if known and not counted and (len(known) < 2 or phrase.number not in (None, len(known))):
                self.faults.append(f"ambiguous: '{' '.join(phrase.said.values()) or phrase.noun}'")
            return known or ([] if phrase.generic else self.introduce(phrase, ""))
        shape = phrase.said.get("shape")
        fitting = [d for d in self.stated if d.fits(phrase.said) and (shape is None or d.said.get("shape") == shape)]
        exact = [d for d in fitting if phrase.said.keys() <= d.said.keys()]
        found = exact or fitting
        if len(found) > 1:
            self.faults.append(f"ambiguous: '{' '.join(phrase.said.values()) or phrase.noun}'")
        found = found or self._contradicted(phrase.said)
        if found:
            self._opened(phrase.said, found[0])
            return found[:1]
        again = [d for d in self.named if d.said == phrase.said]
        if not again:
            again = [Draft(dict(phrase.said), "named", self.sentence)]
            self.named += again
        return again

    def _next(self, phrase: NounPhrase) -> list[Draft]:
        waiting = [draft for draft in self.stated if draft.open and draft.fits(phrase.said)]
        if not waiting:
            return self.introduce(phrase, "")
        waiting[0].open = False
        self._opened(phrase.said, waiting[0])
        return waiting[:1]

    def _contradicted(self, said: Said) -> list[Draft]:
        """The thing that a definite noun can only mean, though it says something else of it."""
        alike = [draft for draft in self.stated if draft.said.get("shape") == said.get("shape", "")]
        if "color" in said:
            return [draft for draft in alike if draft.said.get("color") == said["color"]]
        return alike if len(alike) == 1 else []

    def _opened(self, said: Said, draft: Draft) -> None:
        for name, value in said.items():
            self.say(draft, name, value)

    def say(self, draft: Draft, name: str, value: str) -> None:
        """One more attribute of a thing."""
        self._state(draft)
        if draft.said.setdefault(name, value) != value:
            self.faults.append(f"contradiction: {draft.said[name]} as {value}")

    def deny(self, said: Said, base: Draft | None = None) -> Draft:
        """That nothing is so, or that `base` is not."""
        draft = Draft(dict(said), "denied", self.sentence, base=base)
        self.denials.append(draft)
        return draft

    def put(self, drafts: list[Draft], place: Place) -> bool:
        """The place of a thing; of several, that of the first that has none. False where the sentence has said it."""
        draft = next((d for d in drafts if d.place is None), drafts[-1])
        self._state(draft)
        known = draft.said.get("place")
        if draft.place is not None and draft.placed == self.sentence:  # "at the top, on the left"
            joined = draft.place.joined(place)
            if joined and joined == draft.place and joined.name == known:
                return False
            if joined:
                draft.place = joined
                draft.said |= {"place": joined.name} if joined.name else {}
                return True
        if known is None:
            draft.place, draft.placed = place, self.sentence
            draft.said |= {"place": place.name} if place.name else {}
        elif place.name and place.name != known:
            self.faults.append(f"contradiction: {known} as {place.name}")
        elif draft.repeated == self.sentence:
            return False
        else:
            draft.repeated = self.sentence
        return True

    def _state(self, draft: Draft) -> None:
        if draft.kind == "named":
            draft.kind = "stated"
            self.named.remove(draft)
            self.stated.append(draft)

    def end_sentence(self) -> None:
        """A definite noun of which the sentence tells nothing, not even a relation, is a statement."""
        for draft in [d for d in self.named if d.sentence == self.sentence and not d.linked]:
            self._state(draft)

    def denied(self) -> list[Said]:
        """Attributes that nothing has together, by what the text says."""
        found = []
        for draft in self.denials:
            place = draft.beside.said.get("place") if draft.beside else None
            found.append(
                {**(draft.base.said if draft.base else {}), **({"place": place} if place else {}), **draft.said}
            )
        return found
