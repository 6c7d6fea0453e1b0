"""What files say of their origin, files that lie, and files that do harm."""

from __future__ import annotations

import datetime
import io
import json
import re
import socket
import struct
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from item.images.file_claims import OTHER, SOURCE_TYPES, digital_source_type

SCHEME = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED, CAPTURED = "trainedAlgorithmicMedia", "digitalCapture"
MIME = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
    "GIF": "image/gif",
}
Sign = Callable[..., bytes]


def picture(format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 48), 60).convert("RGB").save(file, format, **options)
    return file.getvalue()


# XMP, written by Pillow.


def rdf(inner: str, attributes: str = "") -> str:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" '
        f'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" {attributes}>'
        f"{inner}</rdf:Description></rdf:RDF></x:xmpmeta>"
    )


def element(value: str) -> str:
    return f"<Iptc4xmpExt:DigitalSourceType>{value}</Iptc4xmpExt:DigitalSourceType>"


def with_xmp(format: str, xmp: str) -> bytes:
    if format == "PNG":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", xmp)
        return picture(format, pnginfo=chunks)
    if format == "TIFF":
        return picture(format, tiffinfo={700: xmp.encode()})
    return picture(format, xmp=xmp.encode())


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_xmp_is_read_in_each_format_that_holds_it(format: str) -> None:
    data = with_xmp(format, rdf(element(SCHEME + GENERATED)))
    assert digital_source_type(data, format) == GENERATED
    assert digital_source_type(data, format.lower()) == GENERATED


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_an_ordinary_file_claims_nothing(format: str) -> None:
    assert digital_source_type(picture(format), format) is None


@pytest.mark.parametrize(
    "xmp",
    [
        rdf(element(SCHEME + CAPTURED)),
        rdf("", f'Iptc4xmpExt:DigitalSourceType="{SCHEME}{CAPTURED}"'),
        rdf(f'<Iptc4xmpExt:DigitalSourceType rdf:resource="{SCHEME}{CAPTURED}"/>'),
        rdf("<a:b xmlns:a='u:'/>") + rdf(element(SCHEME + CAPTURED)),
    ],
)
def test_xmp_may_write_it_in_any_form_of_rdf(xmp: str) -> None:
    assert digital_source_type(with_xmp("JPEG", xmp), "JPEG") == CAPTURED


@pytest.mark.parametrize(
    "xmp",
    [
        rdf(f"<a:Ingredient xmlns:a='u:'>{element(SCHEME + GENERATED)}</a:Ingredient>"),
        rdf(element(SCHEME + GENERATED)).replace("2008-02-29", "1999-01-01"),
        rdf(element("")),
        rdf("DigitalSourceType"),
        rdf(element(SCHEME + GENERATED))[:-30],
    ],
)
def test_what_xmp_says_of_something_else_is_not_taken(xmp: str) -> None:
    assert digital_source_type(with_xmp("JPEG", xmp), "JPEG") is None


@pytest.mark.parametrize(
    ("value", "code"),
    [(SCHEME + code, code) for code in SOURCE_TYPES]
    + [
        ("https://cv.iptc.org/newscodes/digitalsourcetype/print", "print"),
        ("digsrctype:humanEdits", "humanEdits"),
        ("compositeSynthetic", "compositeSynthetic"),
        (f" {SCHEME}TrainedAlgorithmicMedia\n", GENERATED),
        (SCHEME + "nothingOfTheKind", OTHER),
        ("http://c2pa.org/digitalsourcetype/trainedAlgorithmicData", OTHER),
        ("http://example.com/trainedAlgorithmicMedia", OTHER),
        (f"http://example.com/?{SCHEME}trainedAlgorithmicMedia", OTHER),
        ("&lt;script>", OTHER),
        ("http://c2pa.org/digitalsourcetype/empty", None),
    ],
)
def test_values_come_out_as_codes_of_the_vocabulary(value: str, code: str | None) -> None:
    assert digital_source_type(with_xmp("JPEG", rdf(element(value))), "JPEG") == code


@given(st.sampled_from(["JPEG", "PNG"]), st.text())
def test_whatever_xmp_names_one_of_the_known_words_comes_out(format: str, value: str) -> None:
    data = b"\xff\xd8" + rdf(element(value)).encode(errors="ignore")
    assert digital_source_type(data, format) in (*SOURCE_TYPES, OTHER, None)


# C2PA, written by its own library and signed with a certificate of our own.


@pytest.fixture(scope="session")
def sign() -> Sign:
    """Put a signed manifest into a picture."""
    c2pa = pytest.importorskip("c2pa")
    certificates, key = certificate_chain()

    def signed(
        data: bytes,
        format: str,
        actions: list[dict[str, Any]],
        ingredient: tuple[str, bytes] | None = None,
        assertions: dict[str, Any] | None = None,
        remote: str | None = None,
        claim_version: int = 2,
    ) -> bytes:
        listed = {
            ("c2pa.actions.v2" if claim_version == 2 else "c2pa.actions"): {"actions": actions},
            **(assertions or {}),
        }
        manifest = {
            "claim_version": claim_version,
            "claim_generator_info": [{"name": "test", "version": "1"}],
            "assertions": [{"label": label, "data": d} for label, d in listed.items()],
        }
        context = c2pa.Context.from_dict(
            {
                "verify": {
                    "verify_after_sign": False,
                    "verify_trust": False,
                    "remote_manifest_fetch": False,
                    "ocsp_fetch": False,
                },
                "builder": {"thumbnail": {"enabled": False}},
            }
        )
        info = c2pa.C2paSignerInfo(b"es256", certificates, key, None)
        with c2pa.Signer.from_info(info) as signer, io.BytesIO() as out:
            builder = c2pa.Builder.from_json(json.dumps(manifest), context)
            if ingredient:
                relationship, content = ingredient
                builder.add_ingredient(
                    json.dumps({"relationship": relationship, "title": "before"}),
                    MIME[format],
                    io.BytesIO(content),
                )
            if remote:
                builder.set_remote_url(remote)
                builder.set_no_embed()
            builder.sign(signer, MIME[format], io.BytesIO(data), out)
            return out.getvalue()

    return signed


def certificate_chain() -> tuple[bytes, bytes]:
    """A chain of two certificates and the key of the first, as PEM."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    def certificate(subject: str, key: Any, issuer_key: Any, is_issuer: bool) -> bytes:
        def name(text: str) -> Any:
            organization = x509.oid.NameOID.ORGANIZATION_NAME
            return x509.Name([x509.NameAttribute(organization, text)])

        usage = x509.KeyUsage(
            digital_signature=not is_issuer,
            key_cert_sign=is_issuer,
            crl_sign=is_issuer,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        purpose = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.EMAIL_PROTECTION])
        start = datetime.datetime(2026, 1, 1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("issuer"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=36500))
            .add_extension(x509.BasicConstraints(is_issuer, None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(issuer_id, critical=False)
        )
        if not is_issuer:
            builder = builder.add_extension(purpose, critical=False)
        return bytes(builder.sign(issuer_key, SHA256()).public_bytes(Encoding.PEM))

    issuer_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    chain = certificate("signer", key, issuer_key, False)
    chain += certificate("issuer", issuer_key, issuer_key, True)
    return chain, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def created(code: str) -> list[dict[str, Any]]:
    return [{"action": "c2pa.created", "digitalSourceType": SCHEME + code}]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("code", [GENERATED, CAPTURED])
def test_a_manifest_is_read_in_each_format(sign: Sign, format: str, code: str) -> None:
    data = sign(picture(format), format, created(code))
    assert digital_source_type(data, format) == code


def test_a_manifest_of_the_first_version_is_read(sign: Sign) -> None:
    data = sign(picture("JPEG"), "JPEG", created(GENERATED), claim_version=1)
    assert b"c2pa.claim\0" in data
    assert digital_source_type(data, "JPEG") == GENERATED


def test_a_manifest_in_a_gif_is_not_read(sign: Sign) -> None:
    assert digital_source_type(sign(picture("GIF"), "GIF", created(GENERATED)), "GIF") is None


def test_a_manifest_that_a_jpeg_holds_in_pieces_is_put_together(sign: Sign) -> None:
    filling = {"org.example.long": {"text": "long " * 40_000}}
    data = sign(picture("JPEG"), "JPEG", created(GENERATED), assertions=filling)
    assert len(re.findall(rb"\xff\xeb..JP", data, re.DOTALL)) >= 4
    assert digital_source_type(data, "JPEG") == GENERATED


def test_of_several_actions_the_one_that_says_most_of_generation_counts(sign: Sign) -> None:
    edit = {
        "action": "c2pa.edited",
        "digitalSourceType": SCHEME + "compositeWithTrainedAlgorithmicMedia",
    }
    data = sign(picture("PNG"), "PNG", [*created(CAPTURED), edit])
    assert digital_source_type(data, "PNG") == "compositeWithTrainedAlgorithmicMedia"


def test_a_file_made_from_another_passes_its_claim_on(sign: Sign) -> None:
    before = sign(picture("JPEG"), "JPEG", created(GENERATED))
    after = sign(before, "JPEG", [], ingredient=("parentOf", before))
    assert after.count(b"c2ma") == 2
    assert digital_source_type(after, "JPEG") == GENERATED


def test_a_part_that_was_put_in_passes_no_claim_on(sign: Sign) -> None:
    part = sign(picture("JPEG"), "JPEG", created(GENERATED))
    whole = picture("JPEG")
    silent = sign(whole, "JPEG", [], ingredient=("componentOf", part))
    assert silent.count(b"c2ma") == 2
    assert digital_source_type(silent, "JPEG") is None
    telling = sign(whole, "JPEG", created(CAPTURED), ingredient=("componentOf", part))
    assert digital_source_type(telling, "JPEG") == CAPTURED


def test_a_manifest_goes_before_xmp(sign: Sign) -> None:
    data = with_xmp("JPEG", rdf(element(SCHEME + CAPTURED)))
    assert digital_source_type(sign(data, "JPEG", created(GENERATED)), "JPEG") == GENERATED
    silent = sign(data, "JPEG", [{"action": "c2pa.edited"}])
    assert digital_source_type(silent, "JPEG") == CAPTURED


def test_a_manifest_elsewhere_is_not_fetched(sign: Sign, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        url = f"http://127.0.0.1:{port}/manifest.c2pa"
        data = sign(picture("JPEG"), "JPEG", created(GENERATED), remote=url)
        assert url.encode() in data
        monkeypatch.setattr(socket, "socket", None)
        assert digital_source_type(data, "JPEG") is None
        with pytest.raises(BlockingIOError):
            server.accept()


# Files that do harm.


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def superbox(kind: bytes, label: str, *inner: bytes) -> bytes:
    about = kind + bytes.fromhex("00110010800000aa00389b71") + b"\x03" + label.encode() + b"\0"
    return box(b"jumb", box(b"jumd", about) + b"".join(inner))


def manifest(actions: bytes, label: str = "urn:c2pa:x", name: str = "c2pa.actions") -> bytes:
    content = superbox(b"cbor", name, box(b"cbor", actions))
    return superbox(b"c2ma", label, superbox(b"c2as", "c2pa.assertions", content))


def store(*manifests: bytes) -> bytes:
    return superbox(b"c2pa", "c2pa", *manifests)


CLAIM = cbor2.dumps({"actions": created(GENERATED)})
STORE = store(manifest(CLAIM))


def parent(of: str) -> bytes:
    url = {"url": f"self#jumbf=/c2pa/{of}"}
    return cbor2.dumps({"relationship": "parentOf", "activeManifest": url})


def test_the_boxes_made_here_are_read() -> None:
    assert digital_source_type(STORE, "PNG") == GENERATED
    assert digital_source_type(b"in front" + STORE + b"behind", "TIFF") == GENERATED


@pytest.mark.parametrize(
    "harmful",
    [
        b"\x81" * 200_000 + b"\0",
        b"\xc1" * 200_000 + b"\0",
        b"\xa1\x61a" * 80_000 + b"\0",
        b"\x5b" + struct.pack(">Q", 4_000_000_000) + b"\0",
        b"\x9b" + struct.pack(">Q", 1 << 62) + b"\0",
        b"\xbb" + struct.pack(">Q", 1 << 40) + b"\0",
        b"\xa1\x67actions\x9a" + struct.pack(">I", 250_000) + b"\xa0" * 250_000,
        b"\xa1\x67actions\xd8\x1c\x81\xd8\x1d\x00",
        b"\xa1\x67actions\x81\xa1\x71digitalSourceType\xc5\x82\x1b" + b"\x7f" * 8 + b"\x01",
        b"\xa1\x67actions\x81\xa1\x71digitalSourceType\xd8\x23\x7a"
        + struct.pack(">I", 200_000)
        + b"a|" * 100_000,
        b"\xa1\x67actions\x81\xa1\x71digitalSourceType\x61\xff",
        cbor2.dumps({"actions": [1, None, {"digitalSourceType": ["a"]}, {}]}),
        cbor2.dumps({"actions": {}}),
        cbor2.dumps([]),
        b"",
    ],
)
def test_harmful_content_takes_little_time_and_memory(harmful: bytes) -> None:
    data = store(manifest(harmful))
    tracemalloc.start()
    started = time.process_time()
    assert digital_source_type(data, "PNG") in (None, OTHER)
    spent, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert spent < 5.0
    assert peak < 60e6


@pytest.mark.parametrize(
    "data",
    [
        store(*[manifest(parent("b"), "a", "c2pa.ingredient.v3")] * 900),
        store(
            manifest(parent("b"), "a", "c2pa.ingredient"),
            manifest(parent("a"), "b", "c2pa.ingredient"),
        ),
        superbox(b"c2pa", "c2pa", b"\0\0\0\x08free" * 2_000_000),
        STORE[:12] * 1_000_000,
        b"\xff\xd8" + b"\xff\xeb\0\x02" * 2_000_000,
        b"\xff\xd8" + b"\xff\xeb\0\x0aJP\0\1\0\0\0\1" * 1_000_000,
        b"\xff\xd8" + b"\xff" * 8_000_000,
        b"DigitalSourceType" + b"<rdf:RDF" * 1_000_000,
        b"DigitalSourceType<rdf:RDF " + b"<a>" * 100_000 + b"</rdf:RDF>",
        (rdf("<a>" * 50_000 + "</a>" * 50_000) + "DigitalSourceType").encode(),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_harmful_structure_takes_little_time(data: bytes, format: str) -> None:
    started = time.process_time()
    assert digital_source_type(data, format) is None
    assert time.process_time() - started < 5.0


def test_xmp_with_entities_is_not_expanded() -> None:
    laughs = "<!ENTITY a0 'http'>" + "".join(
        f"<!ENTITY a{i} '{f'&a{i - 1};' * 10}'>" for i in range(1, 20)
    )
    bomb = f"<!DOCTYPE x [{laughs}]>" + rdf(element("&a19;"))
    inside = rdf(element("&a19;")).replace("<rdf:Desc", f"<!DOCTYPE x [{laughs}]><rdf:Desc", 1)
    for xmp in (bomb, inside):
        assert digital_source_type(xmp.encode(), "PNG") is None


def test_a_jpeg_is_looked_through_only_up_to_its_first_scan() -> None:
    data = picture("JPEG")
    assert digital_source_type(data + STORE, "JPEG") is None
    assert digital_source_type(data + rdf(element(GENERATED)).encode(), "JPEG") is None


WORDS = (*SOURCE_TYPES, OTHER, None)


@given(st.binary(), st.sampled_from([*MIME, "BMP"]))
def test_no_bytes_raise(data: bytes, format: str) -> None:
    for content in (data, b"\xff\xd8" + data, STORE[:60] + data, data + STORE):
        assert digital_source_type(content, format) in WORDS


@given(st.data())
@settings(max_examples=200)
def test_broken_manifests_do_not_raise(data: st.DataObject) -> None:
    content = bytearray(STORE)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assert digital_source_type(bytes(content), "PNG") in WORDS


@given(st.integers(0, len(STORE) - 1))
def test_a_truncated_manifest_claims_nothing(length: int) -> None:
    assert digital_source_type(STORE[:length], "PNG") is None


@given(
    st.recursive(
        st.none() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["actions", "digitalSourceType", "relationship", "activeManifest", "url"]
                ),
                inner,
            )
        ),
    )
)
def test_whatever_an_assertion_holds_one_of_the_known_words_comes_out(content: Any) -> None:
    for name in ("c2pa.actions", "c2pa.ingredient"):
        data = store(manifest(cbor2.dumps(content), name=name))
        assert digital_source_type(data, "PNG") in WORDS
