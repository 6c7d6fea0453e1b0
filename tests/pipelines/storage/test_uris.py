"""Same object, same key; another object, another key; and no secret in any."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipelines.storage.uris import canonical_uri, http_url, local_uri, without_secrets

FOLDER = "/nowhere/images"
SECRET = "hunter2"

# Local paths

segments = st.binary(min_size=1, max_size=6).map(os.fsdecode)
paths = st.lists(
    segments.filter(lambda name: name not in (".", "..") and not set(name) & {"/", "\0"}),
    min_size=1,
    max_size=4,
)


@st.composite
def path_spellings(draw: st.DrawFn, names: list[str]) -> str:
    """One of the ways to write `names`, which lie in FOLDER."""
    detours = st.sampled_from(["", "/", "./", "none/../", ".//./", "a/b/../../"])
    text = "".join(f"{draw(detours)}{name}/" for name in names).lstrip("/")
    if draw(st.booleans()):
        text = text[:-1]
    how = draw(st.sampled_from(["relative", "parent", "absolute", "file"]))
    if how == "relative":
        return f"./{text}"
    if how == "parent":
        return f"../images/{text}"
    text = f"{FOLDER}/{text}"
    if how == "absolute":
        return draw(st.sampled_from(["", "/", "//"])) + text
    prefix = draw(st.sampled_from(["file://", "FILE://localhost", "file:"]))
    must = b"%"
    encoded = "".join(
        f"%{byte:02x}"
        if byte > 126 or bytes([byte]) in must or (byte != 47 and draw(st.booleans()))
        else chr(byte)
        for byte in os.fsencode(text)
    )
    return prefix + encoded


@given(st.data(), paths, paths)
def test_a_path_has_one_key_however_it_is_spelled(
    data: st.DataObject, names: list[str], others: list[str]
) -> None:
    key = canonical_uri(data.draw(path_spellings(names)), FOLDER)
    assert key == local_uri("/".join([FOLDER, *names]))
    assert canonical_uri(key, "/elsewhere") == key
    key.encode()
    other = canonical_uri(data.draw(path_spellings(others)), FOLDER)
    assert (key == other) == (names == others)


@given(st.binary(min_size=1), st.binary(min_size=1))
def test_local_uris_are_text_and_different_for_different_paths(one: bytes, other: bytes) -> None:
    uris = [local_uri("/" + os.fsdecode(path)) for path in (one, other)]
    assert (uris[0] == uris[1]) == (one == other)
    assert os.fsencode(uris[0])


@pytest.fixture
def linked() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        (root / "real" / "sub").mkdir(parents=True)
        (root / "link").symlink_to("real/sub")
        (root / "real" / "sub" / "alias.jpg").symlink_to("a.jpg")
        yield str(root)


def test_linked_folders_are_resolved_and_the_last_name_is_kept(linked: str) -> None:
    assert canonical_uri("link/a.jpg", linked) == f"{linked}/real/sub/a.jpg"
    assert canonical_uri("link/../x.jpg", linked) == f"{linked}/real/x.jpg"
    assert canonical_uri("link/alias.jpg", linked) == f"{linked}/real/sub/alias.jpg"
    assert canonical_uri("gone/../x.jpg", linked) == f"{linked}/x.jpg"
    assert canonical_uri("link/..", linked) == f"{linked}/real"


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 10_000, "/" * 100_000, "/." * 100_000])
def test_paths_that_cannot_exist_have_a_key(text: str) -> None:
    key = canonical_uri(text, FOLDER)
    assert key.encode() and canonical_uri(key, FOLDER) == key


# S3

keys = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["d//a.jpg", "d/a.jpg", "d/", "a?versionId=3", "a#b", "100%25", "100%", "a b", "./a", "/a"]
)
s3_schemes = st.sampled_from(["s3://", "S3://", "s3a://", "S3N://"])


@given(s3_schemes, keys, s3_schemes, keys)
def test_s3_keys_are_kept_byte_for_byte(scheme: str, key: str, other: str, second: str) -> None:
    assert canonical_uri(f"{scheme}bucket/{key}", FOLDER) == f"s3://bucket/{key}"
    same = canonical_uri(f"{scheme}b/{key}", "s3://x") == canonical_uri(f"{other}b/{second}", "/x")
    assert same == (key == second)


@given(keys)
def test_a_relative_name_in_an_s3_folder_is_the_rest_of_a_key(key: str) -> None:
    assume(not key.startswith("/") and ":" not in key)
    assume(not {".", ".."} & set(key.split("/")))
    for folder in ("s3://bucket", "s3://bucket/d", "s3://bucket/d//e", "s3://bucket/d/"):
        assert canonical_uri(key, folder) == f"{folder}/{key}"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("./a", "s3://bucket/crawl/t/a"),
        ("../a", "s3://bucket/crawl/a"),
        ("x/../a//b/./c", "s3://bucket/crawl/t/a//b/c"),
        ("../../a", "s3://bucket/a"),
        ("../../../other/a", "s3://bucket/../other/a"),
        ("/data/a", "/data/a"),
        ("file:///data/a", "/data/a"),
    ],
)
def test_dots_in_an_s3_folder(text: str, key: str) -> None:
    assert canonical_uri(text, "s3://bucket/crawl/t") == key


# HTTP

_UNRESERVED = "abYZ09-._~"
_RESERVED = "/:@!$&'()*+,;="
_ESCAPED = [0x20, 0x25, 0x2F, 0x3F, 0x26, 0xC3, 0x00, 0x7F]
tokens = st.sampled_from([*_UNRESERVED, *_RESERVED, *_ESCAPED])


@st.composite
def token_spellings(draw: st.DrawFn, parts: list[str | int]) -> str:
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += draw(st.sampled_from([f"%{part:02X}", f"%{part:02x}"]))
        elif part in _UNRESERVED:
            text += draw(st.sampled_from([part, f"%{ord(part):02X}", f"%{ord(part):02x}"]))
        else:
            text += part
    return text


http_objects = st.tuples(
    st.sampled_from(["http", "https"]),
    st.sampled_from(["cdn.example", "[2001:db8::1]", "xn--bcher-kva.example"]),
    st.sampled_from([80, 443, 8443]),
    st.lists(tokens, max_size=8),
    st.lists(tokens, max_size=8),
)
HttpObject = tuple[str, str, int, list[str | int], list[str | int]]


def _has_dots(path: list[str | int]) -> bool:
    return any(part in (".", "..") for part in "".join(map(str, path)).split("/"))


@st.composite
def http_spellings(draw: st.DrawFn, thing: HttpObject) -> str:
    scheme, host, port, path, query = thing
    case = draw(st.sampled_from([str.lower, str.upper, str.title]))
    if host.startswith("xn--") and draw(st.booleans()):
        host = draw(st.sampled_from(["bücher.example", "BÜCHER.example"]))
    default = {"http": 80, "https": 443}[scheme] == port
    colon = draw(st.sampled_from(["", ":", f":{port}", f":0{port}"])) if default else f":{port}"
    slash = "/" if path or draw(st.booleans()) else ""
    detour = draw(st.sampled_from(["", "./", "x/../", "../", "%2e%2E/"])) if slash else ""
    asked = f"?{draw(token_spellings(query))}" if query or draw(st.booleans()) else ""
    fragment = draw(st.sampled_from(["", "#", "#top?x=1"]))
    user = draw(st.sampled_from(["", "anna@", f"anna:{SECRET}@"]))
    head = f"{case(scheme)}://{user}{case(host)}{colon}"
    return head + slash + detour + draw(token_spellings(path)) + asked + fragment


@given(st.data(), http_objects, http_objects)
def test_a_url_has_one_key_however_it_is_spelled(
    data: st.DataObject, thing: HttpObject, other: HttpObject
) -> None:
    assume(not _has_dots(thing[3]) and not _has_dots(other[3]))
    key = canonical_uri(data.draw(http_spellings(thing)), FOLDER)
    assert key == canonical_uri(data.draw(http_spellings(thing)), "s3://b/x")
    assert key == canonical_uri(key, FOLDER)
    assert key.isascii() and SECRET not in key
    second = canonical_uri(data.draw(http_spellings(other)), FOLDER)
    assert (key == second) == (thing == other)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("http://h/a b/ä.jpg", "http://h/a%20b/%C3%A4.jpg"),
        ("http://h/100%.jpg", "http://h/100%25.jpg"),
        ("http://h/a%2fb", "http://h/a%2Fb"),
        ("http://h/d//a.jpg", "http://h/d//a.jpg"),
        ("http://h/x?b=1&a=2&a=1", "http://h/x?b=1&a=2&a=1"),
        ("http://h:99999/x", "http://h:99999/x"),
        ("http:///x", "http:///x"),
        ("https://[/pub/x", "https://[/pub/x"),
        ("gs://b//x?y#z", "gs://b//x?y#z"),
        ("data:image/png;base64,AAAA", "data:image/png;base64,AAAA"),
        ("file://elsewhere/a", "file://elsewhere/a"),
        ("abfss://container@account.example/a", "abfss://container@account.example/a"),
    ],
)
def test_keys_of_urls(text: str, key: str) -> None:
    assert canonical_uri(text, FOLDER) == key


@given(st.text() | st.text().map("http://".__add__), st.sampled_from([FOLDER, "s3://b/x"]))
def test_any_text_has_a_key_that_is_text(text: str, folder: str) -> None:
    canonical_uri(text, folder).encode()


def test_what_is_sent_keeps_escapes_that_a_signature_may_cover() -> None:
    url = http_url("HTTPS://U:p@H:443/a%7e b/x.jpg?q=%7e&s=%2b+#f")
    assert url is not None and url.has_user
    assert url.sent == "https://h/a%7E%20b/x.jpg?q=%7E&s=%2B+"


# Secrets

SIGNED = {
    "AWS 4": "X-Amz-Algorithm X-Amz-Credential X-Amz-Date X-Amz-Expires X-Amz-SignedHeaders "
    "X-Amz-Signature X-Amz-Security-Token",
    "AWS 2": "AWSAccessKeyId Signature Expires",
    "CloudFront, policy": "Policy Signature Key-Pair-Id",
    "CloudFront": "Expires Signature Key-Pair-Id",
    "Google 4": "X-Goog-Algorithm X-Goog-Credential X-Goog-Date X-Goog-Expires "
    "X-Goog-SignedHeaders X-Goog-Signature",
    "Google 2": "GoogleAccessId Signature Expires",
    "Azure": "sv se st sr sp spr sip sig",
    "Azure, account": "sv ss srt sp se sig",
    "Azure, user delegation": "sv se sr sp sig skoid sktid skt ske sks skv saoid suoid scid sdd "
    "ses",
    "Azure, stored policy": "sv si sr sig",
}


@given(st.data(), st.sampled_from(sorted(SIGNED)), st.lists(st.integers(0, 9), max_size=3))
def test_no_signature_is_left_and_nothing_else_goes(
    data: st.DataObject, scheme: str, others: list[int]
) -> None:
    signed = [f"{name}={SECRET}{i}" for i, name in enumerate(SIGNED[scheme].split())]
    kept = [f"id={number}" for number in others]
    query = data.draw(st.permutations([*signed, *kept]))
    key = canonical_uri("https://h/x.jpg?" + "&".join(query), FOLDER)
    assert SECRET not in key
    left = [pair for pair in query if pair in kept]
    assert key == "https://h/x.jpg" + ("?" + "&".join(left) if left else "")


@pytest.mark.parametrize("scheme", sorted(SIGNED))
def test_a_part_of_a_signature_is_none(scheme: str) -> None:
    for name in SIGNED[scheme].split():
        if name.endswith("-Signature"):
            continue
        uri = f"https://h/x.jpg?{name}=1"
        assert canonical_uri(uri, FOLDER) == uri


@pytest.mark.parametrize(
    "query", ["key=a", "author=a", "sig=a", "token_id=a", "expires=a", "sv=1&sig=2", "policy=3"]
)
def test_parameters_that_only_sound_secret_stay(query: str) -> None:
    assert without_secrets(f"https://h/x?{query}") == f"https://h/x?{query}"


odd = st.text("/:?#@% \\[]&=+!", max_size=4)


@given(st.sampled_from(["http", "https", "ftp", "s3", "gs"]), odd, odd, st.booleans())
def test_no_password_is_left(scheme: str, before: str, after: str, port: bool) -> None:
    place = "bucket" if scheme in ("s3", "gs") else "cdn.example" + (":8443" if port else "")
    password = f"{before}{SECRET}{after}"
    # With both, where the password ends cannot be told.
    assume("@" not in password or not set(password) & set("/?#"))
    assert without_secrets(f"{scheme}://anna:{password}@{place}/a.jpg") == (
        f"{scheme}://{place}/a.jpg"
    )


@pytest.mark.parametrize(
    "uri",
    [
        "https://host:8443/img/a@2x.png",
        "https://host/img/a@2x.png",
        "https://[::1]:8443/img/a@2x.png",
        "https://host?mail=a@b.c",
        "s3://bucket/user@2x.png",
        "s3://arn:aws:s3:eu-west-1:1:accesspoint/a@2x.png",
        "/data/a:b@c/x?sig=1",
        "a:b@c",
    ],
)
def test_an_at_sign_makes_no_user(uri: str) -> None:
    assert without_secrets(uri) == uri


@pytest.mark.parametrize(
    ("uri", "bare"),
    [
        ("https://u:pa/ss@host.example/img/a@2x.png", "https://host.example/img/a@2x.png"),
        ("https://u:pa/ss@host:8443/img/a@2x.png", "https://host:8443/img/a@2x.png"),
        ("s3://key:hun/ter2@bucket/a@2x.png", "s3://bucket/a@2x.png"),
        ("simplecache::https://u:p@h/x", "simplecache::https://h/x"),
    ],
)
def test_a_password_that_was_not_encoded_takes_nothing_else_along(uri: str, bare: str) -> None:
    assert without_secrets(uri) == bare
