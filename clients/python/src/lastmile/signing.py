"""HTTP Message Signatures (RFC 9421) with Content-Digest (RFC 9530), in the form that the gateway requires."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time

from .keys import SigningKey


def sign(
    key: SigningKey,
    method: str,
    authority: str,
    path: str,
    query: str | None = None,
    *,
    content_type: str = "application/octet-stream",
    body: bytes | None = None,
    created: int | None = None,
    nonce: str | None = None,
) -> dict[str, str]:
    """The headers to add to a request, names in lower case. `path` and `query` are in their encoded form, `query`
    without its question mark. Every call makes a fresh nonce: sign each attempt anew."""
    headers = {"lastmile-public-key": _base64(key.public)}
    covered = {
        "@method": method,
        "@authority": _canonical_authority(authority),
        "@path": path or "/",
        "@query": "?" + (query or ""),
    }
    if body is not None:
        headers["content-digest"] = f"sha-256=:{_base64(hashlib.sha256(body).digest())}:"
        headers["content-type"] = content_type
        covered["content-digest"] = headers["content-digest"]
        covered["content-type"] = content_type
    created = int(time.time()) if created is None else created
    nonce = secrets.token_urlsafe(16) if nonce is None else nonce
    names = " ".join(f'"{name}"' for name in covered)
    # Base64 and these names need no escaping inside a quoted string.
    parameters = f'({names});created={created};nonce="{nonce}";keyid="{key.fingerprint}";alg="ed25519";tag="lastmile"'
    lines = [f'"{name}": {value}' for name, value in covered.items()]
    base = "\n".join([*lines, f'"@signature-params": {parameters}'])
    headers["signature-input"] = f"lastmile={parameters}"
    headers["signature"] = f"lastmile=:{_base64(key.sign(base.encode('ascii')))}:"
    return headers


def _canonical_authority(authority: str) -> str:
    """RFC 9421 section 2.2.3."""
    authority = authority.lower()
    for port in (":80", ":443"):
        if authority.endswith(port):
            return authority[: -len(port)]
    return authority


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
