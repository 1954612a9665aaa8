"""The gateway's address, and the authority that requests are signed for."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlsplit


@dataclass(frozen=True)
class Address:
    """An `http` or `https` URL without a path: the gateway must receive the path that was signed."""

    secure: bool
    host: str
    port: int
    #: Host and port as in the `Host` header.
    authority: str

    @classmethod
    def parse(cls, url: str) -> Address:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http or https URL: {url!r}")
        if parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError("a gateway URL must consist of scheme, host and port")
        secure = parts.scheme == "https"
        default = 443 if secure else 80
        port = parts.port or default
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(secure, parts.hostname, port, host if port == default else f"{host}:{port}")

    def websocket(self, path: str) -> str:
        return f"{'wss' if self.secure else 'ws'}://{self.authority}{path}"


def channel_path(channel: str) -> str:
    return f"/v1/channels/{quote(channel, safe='')}"
