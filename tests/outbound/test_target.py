"""A URL is read in one way or not at all, and each rule says in its own sentence what to write instead."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workers.outbound.failures import OutboundRefused
from workers.outbound.target import Target, followed, host_fault, parsed

FITS = {
    "https://api.example.com": Target("https", "api.example.com", 443, "/", ""),
    "https://API.Example.com:443/A?b=C": Target("https", "api.example.com", 443, "/A", "b=C"),
    "https://api.example.com:8443/": Target("https", "api.example.com", 8443, "/", ""),
    "https://api.example.com?a=b": Target("https", "api.example.com", 443, "/", "a=b"),
    "https://api.example.com/?": Target("https", "api.example.com", 443, "/", ""),
    "https://xn--bcher-kva.example.com/%C3%A4": Target("https", "xn--bcher-kva.example.com", 443, "/%C3%A4", ""),
    "https://a.dev/x?u=https://b.dev/@x:1&l=%0A&f[x]=1": Target("https", "a.dev", 443, "/x", "u=https://b.dev/@x:1&l=%0A&f[x]=1"),
    "https://a.dev/..a/b../...": Target("https", "a.dev", 443, "/..a/b../...", ""),
    "https://a.dev//x//y": Target("https", "a.dev", 443, "//x//y", ""),
    "http://localhost:54321/": Target("http", "localhost", 54321, "/", ""),
    "http://localhost/": Target("http", "localhost", 80, "/", ""),
}  # fmt: skip
SENTENCES = {
    "https://a.dev/" + "x" * 4_083: "A URL may have 4096 characters: put the rest into the body.",
    "https://a.dev/a b": "A URL holds visible ASCII characters only: percent-encode blanks and others.",
    "https://a.dev/ä": "A URL holds visible ASCII characters only: percent-encode blanks and others.",
    "https://a.dev/\n": "A URL holds visible ASCII characters only: percent-encode blanks and others.",
    "https://a.dev/\\": 'Percent-encode \\ " < > ^ ` { | } in a URL: servers read them differently.',
    "https://a.dev/?{}": 'Percent-encode \\ " < > ^ ` { | } in a URL: servers read them differently.',
    "ftp://a.dev/": "A URL begins with https:// and a host.",
    "HTTPS://a.dev/": "A URL begins with https:// and a host.",
    "https:a.dev": "A URL begins with https:// and a host.",
    "https://u@a.dev/": "A URL carries no user name or password: name a connection instead.",
    "https://[::1]/": "Name a host, not an IP address.",
    "https://::1/": "Name a host, not an IP address.",
    "https://a%2edev/": "A host holds no percent signs.",
    "https://a.dev:/": "A port is a number from 1 to 65535, without leading zeros.",
    "https://a.dev:0443/": "A port is a number from 1 to 65535, without leading zeros.",
    "https://a.dev:70000/": "A port is a number from 1 to 65535, without leading zeros.",
    "https:///x": "The host is empty.",
    "https://" + "a." * 126 + "com/": "The host is longer than 253 characters.",
    "https://a_b.dev/": "A host is written in small ASCII letters, digits, dots and hyphens; other letters in their xn-- form.",
    "https://1.2.3.4/": "Name a host, not an IP address: its last part begins with a letter.",
    "https://a/": "The host is no full name such as api.example.com.",
    "https://a.dev./": "The host is no full name such as api.example.com.",
    "https://a.internal/": "Names of inner networks are not reached.",
    "https://a.dev/%": "A percent sign in a URL is followed by two hexadecimal digits: write %25 for it.",
    "https://a.dev/?a=%g0": "A percent sign in a URL is followed by two hexadecimal digits: write %25 for it.",
    "https://a.dev/%0a": "The path holds an encoded control character or backslash.",
    "https://a.dev/%7F": "The path holds an encoded control character or backslash.",
    "https://a.dev/a/..": "The path holds . or .. as a part: write the path that is meant.",
    "https://a.dev/./a": "The path holds . or .. as a part: write the path that is meant.",
    "https://a.dev/a/%2E%2e/b": "The path holds . or .. as a part: write the path that is meant.",
    "https://a.dev/a#b": "Leave out the part from # on: it is never sent.",
    "https://a.dev#": "Leave out the part from # on: it is never sent.",
}
START = Target("https", "a.dev", 443, "/b/c", "d=e")
STEPS = {
    "/x": "https://a.dev/x",
    "x?y#z": "https://a.dev/b/x?y",
    "../../x": "https://a.dev/x",
    "?y": "https://a.dev/b/c?y",
    "//b.dev/x": "https://b.dev/x",
    "https://b.dev:8443": "https://b.dev:8443/",
    "http://localhost:1/": "http://localhost:1/",
}


@pytest.mark.parametrize("url", FITS)
def test_a_url_is_taken_apart(url: str) -> None:
    assert parsed(url) == FITS[url]


@pytest.mark.parametrize("url", SENTENCES)
def test_each_rule_has_its_sentence(url: str) -> None:
    with pytest.raises(OutboundRefused) as refused:
        parsed(url)
    assert str(refused.value) == SENTENCES[url]


@pytest.mark.parametrize("location", STEPS)
def test_a_redirect_leads_on_from_where_it_was_said(location: str) -> None:
    assert followed(location, start=START).url == STEPS[location]


@pytest.mark.parametrize(
    "location", ["https:x", "https:/b.dev/", "mailto:a@b.dev", "x:y", "javascript:x://y", " /x", "\\\\b.dev"]
)
def test_an_odd_redirect_leads_nowhere(location: str) -> None:
    with pytest.raises(OutboundRefused):
        followed(location, start=START)


def test_a_target_names_itself() -> None:
    target = parsed("https://a.dev:8443/b?c")
    assert (target.authority, target.origin, target.page, target.url) == (
        "a.dev:8443", "https://a.dev:8443", "https://a.dev:8443/b", "https://a.dev:8443/b?c",
    )  # fmt: skip
    assert parsed("https://a.dev").authority == "a.dev"


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
@example("\ud800.dev")
def test_whatever_is_read_is_read_the_same_again(text: str) -> None:
    """What comes out is canonical: plain ASCII, a full host, and the same when it is parsed a second time."""
    for url in (text, f"https://{text}", f"https://{text}/", f"https://a.dev/{text}", f"https://a.dev{text}"):
        try:
            target = parsed(url)
        except OutboundRefused:
            continue
        assert parsed(target.url) == target
        assert target.url.isascii()
        assert host_fault(target.host) is None
        assert target.path.startswith("/")
