"""What a file's own metadata say of its origin: the IPTC digital source type.

Read from a C2PA manifest (Content Credentials) or else from XMP. Neither is verified here:
whoever wrote the file may have written, changed or removed both, so the answer is a claim
to show beside a score and never a part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import cbor2
from defusedxml import ElementTree

SOURCE_TYPES = (
    "trainedAlgorithmicMedia",
    "compositeWithTrainedAlgorithmicMedia",
    "compositeSynthetic",
    "algorithmicMedia",
    "dataDrivenMedia",
    "virtualRecording",
    "algorithmicallyEnhanced",
    "digitalCreation",
    "digitalArt",
    "softwareImage",
    "composite",
    "compositeCapture",
    "humanEdits",
    "minorHumanEdits",
    "screenCapture",
    "computationalCapture",
    "digitalCapture",
    "negativeFilm",
    "positiveFilm",
    "print",
)
"""The IPTC NewsCodes of http://cv.iptc.org/newscodes/digitalsourcetype/ as released on
2024-10-23, retired ones too. Whoever names several means the first of them in this order,
which is ours: what says most of generation comes first."""

OTHER = "other"
"""Anything else that a file names as its digital source type."""


def digital_source_type(data: bytes, format: str) -> str | None:
    """What the file claims to be, of `SOURCE_TYPES`, `OTHER`, or None if it claims nothing.

    C2PA goes before XMP. Of a C2PA manifest store, the actions of the active manifest
    count, or, if they name no type, those of the manifest that it was made from
    (C2PA Technical Specification 2.1, sections 11.1, 15.5, 18.12 and 18.13). Signatures,
    hashes and certificates are not looked at, and nothing is fetched: manifests that are
    elsewhere, compressed or in a GIF are not read. XMP is found by its text, as XMP
    Specification part 3 allows, so not where it is compressed or longer than 1 MiB.

    Time and memory are bounded by the length of the file and small constants.

    Parameters
    ----------
    data : bytes
        The file, of any length and content.
    format : str
        As `item.images.decode` names it, in any case.

    Returns
    -------
    str or None
    """
    boxes, text = _jpeg_metadata(data) if format.upper() == "JPEG" else (data, data)
    claimed = _from_c2pa(boxes) or _from_xmp(text)
    return min(claimed, key=(*SOURCE_TYPES, OTHER).index, default=None)


_CODES = {code.lower(): code for code in SOURCE_TYPES}
_SCHEME = re.compile(r"^(?:https?://cv\.iptc\.org/newscodes/digitalsourcetype/|digsrctype:)", re.I)
_NOT_TOLD = "http://c2pa.org/digitalsourcetype/empty"


def _code(value: Any) -> str | None:
    """The code of what stands where a source type should: a URI, a QCode or the code alone."""
    if not isinstance(value, str) or value.strip() in ("", _NOT_TOLD):
        return None
    return _CODES.get(_SCHEME.sub("", value.strip(), count=1).lower(), OTHER)


# C2PA: boxes (ISO/IEC 19566-5, JUMBF) in boxes, and in the innermost ones CBOR. They are
# not read with c2pa-python because its 0.38.1 takes 3.9 GB for a file of 2.5 kB whose
# manifest holds, in any assertion, a string that claims to be so long.

_STORE = b"jumdc2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9b\x71"
"""How the description of a manifest store begins; the store's box begins 12 bytes before."""
_MAX_BOXES = 1000
_MAX_PARENTS = 8
_MAX_CBOR = 256 << 10
_ACTIONS = re.compile(r"c2pa\.actions(\.v\d+)?(__\d+)?")
_INGREDIENT = re.compile(r"c2pa\.ingredient(\.v\d+)?(__\d+)?")


def _from_c2pa(data: bytes) -> list[str]:
    start = data.find(_STORE) - 12
    if start < 0:
        return []
    for kind, store in islice(_boxes(memoryview(data)[start:]), 1):
        if kind == b"jumb":
            return _from_store(dict(_labelled(store)))
    return []


def _from_store(manifests: dict[str, memoryview]) -> list[str]:
    label = next(reversed(manifests), None)  # the last one is the active one
    for _ in range(_MAX_PARENTS):
        assertions = dict(_labelled(manifests.pop(label or "", memoryview(b""))))
        contents = [
            (name, _cbor(box))
            for name, box in _labelled(assertions.get("c2pa.assertions", memoryview(b"")))
            if _ACTIONS.fullmatch(name) or _INGREDIENT.fullmatch(name)
        ]
        if codes := [code for name, box in contents for code in _action_codes(name, box)]:
            return codes
        label = next((parent for name, box in contents if (parent := _parent(name, box))), None)
    return []


def _action_codes(name: str, content: Any) -> Iterator[str]:
    if _ACTIONS.fullmatch(name) and isinstance(content, dict):
        actions = content.get("actions")
        for action in actions if isinstance(actions, list) else []:
            if isinstance(action, dict) and (code := _code(action.get("digitalSourceType"))):
                yield code


def _parent(name: str, content: Any) -> str | None:
    """Label of the manifest that an ingredient says the file was made from."""
    if not _INGREDIENT.fullmatch(name) or not isinstance(content, dict):
        return None
    manifest = content.get("activeManifest", content.get("c2pa_manifest"))
    if content.get("relationship") != "parentOf" or not isinstance(manifest, dict):
        return None
    url = manifest.get("url")
    return url.rpartition("/")[2] if isinstance(url, str) else None


def _cbor(superbox: memoryview) -> Any:
    """Content of an assertion, or None."""
    for kind, content in islice(_boxes(superbox), _MAX_BOXES):
        if kind == b"cbor" and len(content) <= _MAX_CBOR:
            try:
                return cbor2.loads(
                    content,
                    max_depth=64,
                    strict_hashable_types=True,
                    semantic_decoders={_REGEX: lambda text, _: text},
                )
            except Exception:  # decoders of tagged values raise nearly any type
                return None
    return None


_REGEX = 35
"""CBOR's tag of a regular expression, which would be compiled."""


def _labelled(superbox: memoryview) -> Iterator[tuple[str, memoryview]]:
    """Labels and contents of the superboxes in a superbox."""
    for kind, content in islice(_boxes(superbox), _MAX_BOXES):
        if kind == b"jumb":
            for inner, description in islice(_boxes(content), 1):
                if inner == b"jumd":
                    # A type of 16 bytes, switches of 1, then the label up to a zero.
                    label = bytes(description[17:1024]).partition(b"\0")[0]
                    yield label.decode(errors="replace"), content


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of each box that is there in full."""
    start = 0
    while start + 8 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big") or len(data) - start
        if length < 8 or start + length > len(data):
            return
        yield bytes(data[start + 4 : start + 8]), data[start + 8 : start + length]
        start += length


_MAX_SEGMENTS = 10_000


def _jpeg_metadata(data: bytes) -> tuple[bytes, bytes]:
    """The JUMBF boxes of a JPEG, and all of it that comes before its first scan.

    A box may be cut into pieces, one an APP11 segment (ISO/IEC 19566-5, D.2).
    """
    pieces: list[bytes] = []
    known: set[bytes] = set()
    position = 2
    for _ in range(_MAX_SEGMENTS):
        marker = data[position : position + 2]
        if marker == b"\xff\xff":  # a filler byte
            position += 1
            continue
        if len(marker) < 2 or marker[0] != 0xFF or marker[1] in (0xD9, 0xDA):
            break
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : position + 2 + length]
        if marker == b"\xff\xeb" and segment[:2] == b"JP":
            # "JP", number of the box, number of the piece, then the box's length and kind,
            # which each further piece repeats.
            number = segment[2:4]
            pieces.append(segment[16:] if number in known else segment[8:])
            known.add(number)
        position += 2 + max(length, 2)
    return b"".join(pieces), data[:position]


# XMP: RDF in XML.

_MAX_PACKETS = 8
_MAX_XMP = 1 << 20
_RDF_END = b"</rdf:RDF>"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_PROPERTY = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"


def _from_xmp(data: bytes) -> list[str]:
    if b"DigitalSourceType" not in data:
        return []
    start = 0
    for _ in range(_MAX_PACKETS):
        start = data.find(b"<rdf:RDF", start)
        if start < 0:
            break
        end = data.find(_RDF_END, start, start + _MAX_XMP)
        if end >= 0 and (codes := _rdf_codes(data[start : end + len(_RDF_END)])):
            return codes
        start += 1
    return []


def _rdf_codes(packet: bytes) -> list[str]:
    try:
        rdf = ElementTree.fromstring(packet, forbid_dtd=True)
    except (ElementTree.ParseError, ValueError):
        return []
    named = []
    for description in rdf.findall(f"{_RDF}Description"):
        named.append(description.get(_PROPERTY))
        for element in description.findall(_PROPERTY):
            named.append(element.get(f"{_RDF}resource") or element.text)
    return [code for value in named if (code := _code(value))]
