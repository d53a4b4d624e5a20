"""Which network addresses a page may be fetched from.

A list of our own, on purpose: the standard library calls 6to4, NAT64 and multicast addresses global, and
each of them can lead to the machine next door. An address is judged after resolution, as a number, so the
many spellings of 127.0.0.1 (`2130706433`, `0x7f.1`, `127.1`, circled digits) need no rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import NamedTuple

from taskq_core.errors import ConfigError

__all__ = ["Address", "AddressGuard", "AllowRule", "parse_allow", "refusal"]

type Address = IPv4Address | IPv6Address
type Network = IPv4Network | IPv6Network

_DENIED_V4 = {
    IPv4Network("0.0.0.0/8"): "this network",
    IPv4Network("10.0.0.0/8"): "private",
    IPv4Network("100.64.0.0/10"): "shared by a provider's customers",
    IPv4Network("127.0.0.0/8"): "loopback",
    IPv4Network("168.63.129.16/32"): "a cloud platform's own service",
    IPv4Network("169.254.0.0/16"): "link-local",
    IPv4Network("172.16.0.0/12"): "private",
    IPv4Network("192.0.0.0/24"): "reserved for protocols",
    IPv4Network("192.0.2.0/24"): "for documentation",
    IPv4Network("192.31.196.0/24"): "reserved for protocols",
    IPv4Network("192.52.193.0/24"): "reserved for protocols",
    IPv4Network("192.88.99.0/24"): "a 6to4 relay",
    IPv4Network("192.168.0.0/16"): "private",
    IPv4Network("192.175.48.0/24"): "reserved for protocols",
    IPv4Network("198.18.0.0/15"): "for benchmarks",
    IPv4Network("198.51.100.0/24"): "for documentation",
    IPv4Network("203.0.113.0/24"): "for documentation",
    IPv4Network("224.0.0.0/4"): "multicast",
    IPv4Network("240.0.0.0/4"): "reserved",
}
# Everything outside of this is denied unheard: loopback, link-local, site-local, unique local, multicast,
# v4-compatible, and whatever may be assigned later.
_GLOBAL_V6 = IPv6Network("2000::/3")
_DENIED_V6 = {
    IPv6Network("2001::/32"): "Teredo",
    IPv6Network("2001::/23"): "reserved for protocols",
    IPv6Network("2001:db8::/32"): "for documentation",
    IPv6Network("2002::/16"): "6to4",
    IPv6Network("2620:4f:8000::/48"): "reserved for protocols",
    IPv6Network("3ffe::/16"): "a former test network",
    IPv6Network("3fff::/20"): "for documentation",
}
# Behind these stands an IPv4 address that decides. NAT64 counts as well: where it is used, every
# IPv4 site of the world is reached through it.
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_LOW_32 = 0xFFFFFFFF
# An interface identifier of ISATAP: 32 fixed bits (the universal/local bit aside), then an IPv4 address.
_ISATAP = 0x00005EFE
_UNIVERSAL_BIT = 0x02000000


class AllowRule(NamedTuple):
    """An exception: these addresses may be fetched from, on one port or on all."""

    network: Network
    port: int | None

    def covers(self, address: Address, port: int) -> bool:
        """Whether the exception holds for this address and port."""
        return (
            address.version == self.network.version and address in self.network and self.port in {None, port}
        )


class AddressGuard(NamedTuple):
    """The rule for every address that is about to be connected to."""

    allow: tuple[AllowRule, ...] = ()

    def refusal(self, address: Address, port: int) -> str | None:
        """Why not to connect, or None when nothing speaks against it."""
        plain = _unwrapped(address)
        if any(rule.covers(each, port) for rule in self.allow for each in (address, plain)):
            return None
        return refusal(address)


def refusal(address: Address) -> str | None:
    """What kind of non-public address this is; None for a public one."""
    plain = _unwrapped(address)
    if isinstance(plain, IPv4Address):
        return _first(_DENIED_V4, plain)
    if plain not in _GLOBAL_V6:
        return "not a public IPv6 address"
    return _first(_DENIED_V6, plain) or _isatap_refusal(plain)


def parse_allow(text: str | Iterable[str]) -> tuple[AllowRule, ...]:
    """Read the exceptions: CIDR blocks, addresses, or `address:port`, separated by commas.

    Raises ConfigError that names the part which is none of these.
    """
    parts = text.split(",") if isinstance(text, str) else text
    return tuple(_parse_rule(part.strip()) for part in parts if part.strip())


def _unwrapped(address: Address) -> Address:
    if isinstance(address, IPv6Address) and (address in _MAPPED or address in _NAT64):
        return IPv4Address(int(address) & _LOW_32)
    return address


def _isatap_refusal(address: IPv6Address) -> str | None:
    marker = (int(address) >> 32) & _LOW_32
    if marker & ~_UNIVERSAL_BIT != _ISATAP:
        return None
    return _first(_DENIED_V4, IPv4Address(int(address) & _LOW_32))


def _first[N: Network](table: dict[N, str], address: Address) -> str | None:
    return next((kind for network, kind in table.items() if address in network), None)


def _parse_rule(part: str) -> AllowRule:
    try:
        return AllowRule(ip_network(part, strict=False), None)
    except ValueError:
        pass
    host, _, port = part.rpartition(":")
    try:
        network, number = ip_network(ip_address(host.strip("[]"))), int(port)
    except ValueError:
        raise ConfigError(
            f"TASKQ_SCRAPE_ALLOW: {part[:60]!r} is neither a CIDR block nor address:port"
        ) from None
    if not 0 < number < 65536:
        raise ConfigError(f"TASKQ_SCRAPE_ALLOW: {part[:60]!r} has no such port")
    return AllowRule(network, number)
