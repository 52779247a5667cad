"""A URL parsed once, strictly: whatever two parsers might read in two ways is refused."""

import re
from dataclasses import dataclass
from urllib.parse import urljoin

from workers.outbound.failures import OutboundRefused

MAX_CHARACTERS = 4_096
LOOPBACK = "localhost"

_SHAPE = re.compile(r"(https?)://([^/?#]*)(/[^?#]*|)(\?[^#]*|)(#.*|)")
_UNPRINTED = re.compile(r"[^\x21-\x7e]")
_AMBIGUOUS = re.compile(r'[\\"<>^`{|}]')
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_PART = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?:{_PART}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?")
_IP = re.compile(r"(?:^|\.)[0-9][^.]*$")
_INNER = re.compile(r"\.(?:internal|local|localhost|localdomain|arpa|onion)$")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PERCENT_CONTROL = re.compile(r"%(?:[01][0-9A-Fa-f]|7[Ff]|5[Cc])")
_DOTS = re.compile(r"/(?:\.|%2[Ee]){1,2}(?=/|$)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True)
class Target:
    """Where a request goes. `query` is without its question mark."""

    scheme: str
    host: str
    port: int
    path: str
    query: str

    @property
    def authority(self) -> str:
        """The host as the allow-list writes it: with its port unless that is 443."""
        return self.host if self.port == 443 else f"{self.host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port: what a credential is given to."""
        return f"{self.scheme}://{self.authority}"

    @property
    def page(self) -> str:
        """The URL without its query."""
        return f"{self.origin}{self.path}"

    @property
    def url(self) -> str:
        """The whole URL."""
        return f"{self.page}?{self.query}" if self.query else self.page


def host_fault(host: str) -> str | None:
    """Why a text is no host that may be reached, or None. The database has the same rule for its allow-list."""
    if not host:
        return "The host is empty."
    if len(host.encode(errors="replace")) > 253:
        return "The host is longer than 253 characters."
    if host == LOOPBACK:
        return None
    if re.search(r"[^a-z0-9.-]", host):
        return "A host is written in small ASCII letters, digits, dots and hyphens; other letters in their xn-- form."
    if _IP.search(host):
        return "Name a host, not an IP address: its last part begins with a letter."
    if not _NAME.fullmatch(host):
        return "The host is no full name such as api.example.com."
    if _INNER.search(host):
        return "Names of inner networks are not reached."
    return None


def parsed(url: str) -> Target:
    """The target of a URL that somebody wrote. Raises OutboundRefused with what to write instead."""
    target = _parsed(url)
    if "#" in url:
        raise OutboundRefused("url", "Leave out the part from # on: it is never sent.")
    return target


def followed(location: str, *, start: Target) -> Target:
    """Where a redirect leads from here. Raises OutboundRefused."""
    _check_characters(location)
    if _SCHEME.match(location) and "://" not in location.partition("?")[0]:
        raise OutboundRefused("url", "A URL begins with https:// and a host.")
    return _parsed(urljoin(start.url, location))


def _parsed(url: str) -> Target:
    _check_characters(url)
    shape = _SHAPE.fullmatch(url)
    if shape is None:
        raise OutboundRefused("url", "A URL begins with https:// and a host.")
    scheme, authority, path, query, _ = shape.groups()
    host, port = _authority(authority, default=443 if scheme == "https" else 80)
    path = path or "/"
    if _BAD_PERCENT.search(path + query):
        raise OutboundRefused("url", "A percent sign in a URL is followed by two hexadecimal digits: write %25 for it.")
    if _PERCENT_CONTROL.search(path):
        raise OutboundRefused("url", "The path holds an encoded control character or backslash.")
    if _DOTS.search(path):
        raise OutboundRefused("url", "The path holds . or .. as a part: write the path that is meant.")
    return Target(scheme, host, port, path, query[1:])


def _check_characters(url: str) -> None:
    if len(url) > MAX_CHARACTERS:
        raise OutboundRefused("url", f"A URL may have {MAX_CHARACTERS} characters: put the rest into the body.")
    if _UNPRINTED.search(url):
        raise OutboundRefused("url", "A URL holds visible ASCII characters only: percent-encode blanks and others.")
    if _AMBIGUOUS.search(url):
        raise OutboundRefused("url", 'Percent-encode \\ " < > ^ ` { | } in a URL: servers read them differently.')


def _authority(authority: str, *, default: int) -> tuple[str, int]:
    if "@" in authority:
        raise OutboundRefused("url", "A URL carries no user name or password: name a connection instead.")
    if "[" in authority or authority.count(":") > 1:
        raise OutboundRefused("url", "Name a host, not an IP address.")
    if "%" in authority:
        raise OutboundRefused("url", "A host holds no percent signs.")
    name, colon, port = authority.partition(":")
    if colon and (not _PORT.fullmatch(port) or int(port) > 65_535):
        raise OutboundRefused("url", "A port is a number from 1 to 65535, without leading zeros.")
    host = name.lower()  # ASCII by now: no letter of another alphabet turns into one of these
    if fault := host_fault(host):
        raise OutboundRefused("url", fault)
    return host, int(port) if colon else default
