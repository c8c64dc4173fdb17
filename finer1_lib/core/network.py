"""How an address is reached: proxy and certificates as the shell's variables say.

    client_options("http://localhost:8000/v1")  ->  {"trust_env": False, "proxy": None, "verify": True}

The variables are those of curl (http_proxy, https_proxy, all_proxy, no_proxy) and of OpenSSL. An address on
this machine never goes through a proxy. An invalid setting is one line with the variable's name; a proxy's
address, which may hold a password, is not in it.
"""

import importlib.util
import ipaddress
import os
import socket
import ssl
import urllib.request
from typing import Any, Optional

from finer1_lib.core.errors import UserError


def is_local(host: str) -> bool:
    """Whether a host name or address is this machine."""
    host = host.rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))  # "127.1"
        except OSError:
            return host in ("localhost", "ip6-localhost", "ip6-loopback") or host.endswith(".localhost")
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def proxy_of(address: str) -> tuple[Optional[str], str]:
    """(the proxy for an address, the variable that names it); (None, "") where there is none."""
    parts = urllib.parse.urlsplit(address)
    if is_local(parts.hostname or "") or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None, ""
    known = urllib.request.getproxies()
    for kind in (parts.scheme, "all"):
        if known.get(kind, "").strip():
            names = sorted((name for name in os.environ if name.lower() == f"{kind}_proxy"), reverse=True)
            url = known[kind] if "://" in known[kind] else f"http://{known[kind]}"
            return url, names[0] if names else f"the system's {kind} proxy"
    return None, ""


def client_options(address: str) -> dict[str, Any]:
    """Arguments of an httpx client for an address; UserError for an unusable proxy or certificate."""
    import httpx
    proxy, name = proxy_of(address)
    if proxy and proxy.lower().startswith("socks") and not importlib.util.find_spec("socksio"):
        raise UserError(f"{name} names a SOCKS proxy, which is not supported here: unset it, give an http://"
                        " proxy, put the server's host into no_proxy, or install socksio")
    try:
        found = httpx.Proxy(proxy) if proxy else None
        if found and not (found.url.host and 0 < (found.url.port or 1) < 2**16):
            raise ValueError(proxy)
    except (httpx.InvalidURL, ValueError):
        raise UserError(f"{name} names no proxy: give http://host:port, or unset it") from None
    return {"trust_env": False, "proxy": found, "verify": _certificates(address)}


def _certificates(address: str) -> "ssl.SSLContext | bool":
    """What the server's certificate is checked against; True for the usual authorities."""
    if not address.startswith("https:"):
        return True
    for name, kind, there in (("SSL_CERT_FILE", "cafile", os.path.isfile),
                              ("SSL_CERT_DIR", "capath", os.path.isdir)):
        place = os.environ.get(name)
        if not place:
            continue
        try:
            if there(place):
                return ssl.create_default_context(**{kind: place})
            why = "which is not there"
        except (OSError, ValueError):
            why = "which holds no certificates"
        raise UserError(f"{name} names {place}, {why}: set it right or unset it")
    return True


def settings_named(address: str) -> str:
    """For the end of a message: which setting may be why an address was not reached; "" for none."""
    try:
        client_options(address)
    except UserError as error:
        return f" ({error})"
    _, name = proxy_of(address)
    return f" (through the proxy of {name}: check it, unset it or put the host into no_proxy)" if name else ""
