"""Signatures and keys, checked with the vectors of the gateway's tests."""

import base64
import json
import subprocess
import tempfile
import unittest
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lastmile import SigningKey
from lastmile.signing import sign

from .support import VECTORS


class Vectors(unittest.TestCase):
    def test_signature_vectors(self):
        vectors = json.loads((VECTORS / "signatures.json").read_text())
        key = SigningKey.load(vectors["private_key"])
        self.assertEqual(key.fingerprint, vectors["keyid"])
        self.assertGreaterEqual(len(vectors["cases"]), 9)
        for case in vectors["cases"]:
            with self.subTest(case["about"]):
                body = None if case["body_base64"] is None else base64.b64decode(case["body_base64"])
                headers = sign(
                    key, case["method"], case["authority"], case["path"], case["query"],
                    content_type=case["content_type"], body=body, created=case["created"], nonce=case["nonce"],
                )
                self.assertEqual(headers, case["headers"])

    def test_nonces(self):
        key = SigningKey(Ed25519PrivateKey.generate())
        nonces = {sign(key, "GET", "h", "/")["signature-input"].split('nonce="')[1].split('"')[0] for _ in range(100)}
        self.assertEqual(len(nonces), 100)
        self.assertTrue(all(len(base64.urlsafe_b64decode(nonce + "==")) >= 16 for nonce in nonces))


class Keys(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def test_key_formats(self):
        openssh, pem = self.folder / "openssh", self.folder / "pem"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", openssh], check=True)
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", pem], check=True)
        printed = subprocess.run(["ssh-keygen", "-lf", openssh], check=True, capture_output=True, text=True).stdout
        for file in (openssh, pem):
            key = SigningKey.load(file)
            for source in (str(file), file.read_text(), file.read_bytes(), "\n" + file.read_text(), key):
                self.assertEqual(SigningKey.load(source).fingerprint, key.fingerprint)
        self.assertEqual(SigningKey.load(openssh).fingerprint, printed.split()[1])

    def test_passphrase(self):
        private = Ed25519PrivateKey.generate()
        secret = serialization.BestAvailableEncryption(b"secret")
        text = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
        self.assertEqual(SigningKey.load(text, b"secret").public, SigningKey(private).public)
        for password in (None, b"wrong"):
            with self.assertRaises(ValueError):
                SigningKey.load(text, password)

    def test_other_keys_are_refused(self):
        rsa = self.folder / "rsa"
        subprocess.run(["openssl", "genpkey", "-algorithm", "rsa", "-out", rsa], check=True, capture_output=True)
        for source in (rsa, b"", b"no key", "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----"):
            with self.assertRaises(ValueError):
                SigningKey.load(source)
        with self.assertRaises(OSError):
            SigningKey.load(self.folder / "absent")
        key = SigningKey(Ed25519PrivateKey.generate())
        self.assertEqual(repr(key), f"SigningKey({key.fingerprint})")
