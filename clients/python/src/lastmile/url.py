"""The gateway's address, and the authority that requests are signed for."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlsplit


@dataclass(frozen=True)
class Address:
    """An `http`, `https`, `ws` or `wss` URL. It may have a path, for a gateway with a path in its `public_url`."""

    secure: bool
    host: str
    port: int
    #: Host and port as in the `Host` header.
    authority: str
    #: The URL's path without a slash at the end.
    base_path: str

    @classmethod
    def parse(cls, url: str) -> Address:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "ws", "wss") or not parts.hostname:
            raise ValueError(f"not a URL such as https://live.example.com: {url!r}")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("a gateway URL must consist of scheme, host, port and path")
        secure = parts.scheme in ("https", "wss")
        default = 443 if secure else 80
        port = parts.port or default
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(secure, parts.hostname, port, host if port == default else f"{host}:{port}", parts.path.rstrip("/"))

    def websocket(self, path: str) -> str:
        return f"{'wss' if self.secure else 'ws'}://{self.authority}{self.base_path}{path}"


def channel_path(channel: str) -> str:
    return f"/v1/channels/{quote(channel, safe='')}"
