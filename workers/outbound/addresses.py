"""Which IP addresses are on the public Internet: named blocks, so that every Python judges alike.

Source: IANA's IPv4 and IPv6 special-purpose address registries, and the addresses of the clouds' metadata services.
"""

import ipaddress

_CLOSED_4 = tuple(
    ipaddress.IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network; Linux connects 0.0.0.0 to itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT; Alibaba's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's own services, inside every machine
        "169.254.0.0/16",  # link-local; the metadata service of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.0.2.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_GLOBAL_6 = ipaddress.IPv6Network("2000::/3")
_CLOSED_6 = tuple(
    ipaddress.IPv6Network(block)
    for block in (
        "2001::/23",  # protocol assignments, Teredo and ORCHID among them
        "2001:db8::/32",
        "2002::/16",  # 6to4: carries any IPv4 address
        "3fff::/20",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


def is_public(text: str) -> bool:
    """Whether an address belongs to a host on the Internet, seen through every way to wrap one address in another."""
    address = _read(text)
    return address is not None and _is_public(address)


def is_loopback(text: str) -> bool:
    """Whether an address is this machine's 127.0.0.1 or ::1, plainly written."""
    address = _read(text)
    return address is not None and str(address) in ("127.0.0.1", "::1")


def are_equal(one: str, other: str) -> bool:
    """Whether two texts are the same address."""
    first, second = _read(one), _read(other)
    return first is not None and first == second


def _read(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address; None for what is none or names a zone."""
    if "%" in text:
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in block for block in _CLOSED_4)
    number = int(address)
    inner = ipaddress.IPv4Address(number & 0xFFFF_FFFF)
    if address in _NAT64:
        return _is_public(inner)
    if address not in _GLOBAL_6 or any(address in block for block in _CLOSED_6):
        return False
    return (number >> 32) & 0xFFFF_FFFF not in _ISATAP or _is_public(inner)
