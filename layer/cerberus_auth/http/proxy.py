"""Proxies: which requests go through one, and how.

https goes through ``HTTPS_PROXY`` (an ``http://`` proxy, with ``user:password@`` if it wants them) by ``CONNECT``, so
that it learns the host and port and nothing else. Never through it go plain http (which is for loopback hosts only), loopback
hosts, the endpoint of container credentials, and what ``NO_PROXY`` names: hosts by comma, each of them with all below it
(``example.com``, ``.example.com`` and ``*.example.com`` are the same), with ``:port`` for that port only, ``*`` for all.
Also addresses and ranges of them, for hosts that are given as addresses: ``10.0.0.0/8``, ``fd00::/8``, ``::1``, ``[::1]:8443``.
``HTTP_PROXY`` and ``ALL_PROXY`` are not read. Of a variable in both spellings, the lower-case one counts.
"""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import unquote, urlsplit

from ..settings import is_loopback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from ..settings import Settings


def proxy_for(settings: Settings, host: str, port: int) -> str | None:
    """The proxy that https to this host goes through, if any."""
    if not settings.proxy or is_loopback(host):
        return None
    host = host.lower()
    for entry in settings.no_proxy.lower().split(","):
        name, named_port = _split(entry.strip())
        if named_port and named_port != str(port):
            continue
        if name == "*" or _is_below(host, name.lstrip("*").lstrip(".")) or _is_in(host, name):
            return None
    return settings.proxy


def _split(entry: str) -> tuple[str, str]:
    """The host and the port of an entry; an IPv6 address has brackets around it where it has a port."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, rest.removeprefix(":")
    if entry.count(":") > 1:
        return entry, ""
    name, _, port = entry.partition(":")
    return name, port


def _is_below(host: str, name: str) -> bool:
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _is_in(host: str, addresses: str) -> bool:
    """Whether a host is an address that an entry names, or of the range that it names."""
    if ":" not in addresses and "/" not in addresses:
        return False
    from ipaddress import ip_address, ip_network  # not where no entry needs it

    try:
        return ip_address(host) in ip_network(addresses, strict=False)
    except ValueError:
        return False


def proxy_url(proxy: str) -> SplitResult:
    """The parts of a proxy's URL, which may come without its scheme."""
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def tunnel_headers(proxy: SplitResult) -> dict[str, str]:
    """What a proxy wants to see besides the host: who asks, where its URL says that."""
    if not proxy.username:
        return {}
    credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {b64encode(credentials).decode()}"}
