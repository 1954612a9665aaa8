"""The publisher's ed25519 key, read from OpenSSH or PEM and identified by its fingerprint."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import Union

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_PEM = b"-----BEGIN "


class SigningKey:
    """A private key. Its `repr` shows only the fingerprint."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        #: The 32 bytes of the public key.
        self.public: bytes = private.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        #: `SHA256:…`, as printed by `ssh-keygen -lf`.
        self.fingerprint: str = _fingerprint(self.public)

    @classmethod
    def load(cls, source: KeySource, password: bytes | None = None) -> SigningKey:
        """Reads a key made by `ssh-keygen -t ed25519`, `openssl genpkey -algorithm ed25519` or `lastmile keygen`.
        Raises `ValueError` for any other content and `OSError` if the file cannot be read."""
        if isinstance(source, SigningKey):
            return source
        text = _read_source(source)
        load = (
            serialization.load_ssh_private_key
            if text.startswith(_OPENSSH)
            else serialization.load_pem_private_key
        )
        try:
            private = load(text, password)
        except (TypeError, UnsupportedAlgorithm) as error:
            # `cryptography` raises these for a missing or superfluous password, and if `bcrypt` is not installed.
            raise ValueError(str(error)) from None
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError("the key must be an ed25519 key")
        return cls(private)

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)

    def __repr__(self) -> str:
        return f"SigningKey({self.fingerprint})"


#: A file path, or the text of the key.
KeySource = Union[str, bytes, os.PathLike[str], SigningKey]


def _read_source(source: str | bytes | os.PathLike[str]) -> bytes:
    if isinstance(source, str) and source.lstrip().startswith(_PEM.decode()):
        source = source.encode()
    if isinstance(source, bytes):
        return source.lstrip()
    return Path(source).read_bytes().lstrip()


def _fingerprint(public: bytes) -> str:
    parts = (b"ssh-ed25519", public)
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    digest = hashlib.sha256(blob).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
