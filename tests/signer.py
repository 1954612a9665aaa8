#!/usr/bin/env python3
"""Signs requests to a lastmile gateway (RFC 9421, RFC 9530), independently of the Rust code.

As a command, it prints the headers to add as JSON:

    signer.py --key KEY.pem --method POST --url http://127.0.0.1:8081/v1/channels/c/messages \
              --content-type application/json --body FILE

As a module: `load_key`, `sign`, `fingerprint`, `openssh_public_key`. `--check-vectors` compares
`vectors/signatures.json` with fresh signatures, `--write-vectors` writes it. Needs the package `cryptography` and nothing else.
"""

import argparse
import base64
import hashlib
import json
import secrets
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

VECTORS = Path(__file__).resolve().parent / "vectors" / "signatures.json"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def load_key(text: bytes) -> Ed25519PrivateKey:
    """Reads an OpenSSH or a PKCS#8 PEM private key without a passphrase."""
    openssh = b"BEGIN OPENSSH PRIVATE KEY" in text
    load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    key = load(text, None)
    if not isinstance(key, Ed25519PrivateKey):
        raise SystemExit("the key must be an ed25519 key")
    return key


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def openssh_public_key(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def fingerprint(key: Ed25519PrivateKey) -> str:
    """The fingerprint as printed by `ssh-keygen -lf`."""
    parts = [b"ssh-ed25519", public_bytes(key)]
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return "SHA256:" + b64(hashlib.sha256(blob).digest()).rstrip("=")


def canonical_authority(authority: str) -> str:
    """RFC 9421 section 2.2.3."""
    authority = authority.lower()
    for port in (":80", ":443"):
        if authority.endswith(port):
            return authority[: -len(port)]
    return authority


def sf_string(text: str) -> str:
    """Encodes a string (RFC 9651 section 3.3.3)."""
    if any(not 0x20 <= ord(c) <= 0x7E for c in text):
        raise ValueError("not an ASCII string")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def signature_base(method, authority, path, query, headers, components, parameters) -> str:
    """RFC 9421 section 2.5. Names in `headers` are in lower case, `query` has no question mark."""
    derived = {
        "@method": method,
        "@authority": canonical_authority(authority),
        "@path": path or "/",
        "@query": "?" + (query or ""),
    }
    lines = [f'"{name}": {derived[name] if name in derived else headers[name].strip()}' for name in components]
    return "\n".join(lines + [f'"@signature-params": {parameters}'])


def sign(key, method, authority, path, query=None, content_type=None, body=None, created=None, nonce=None,
         expires=None, label="lastmile", tag="lastmile", alg="ed25519", keyid=None, components=None):
    """Returns the headers to add, and the signature base. A test may pass a wrong value for any part."""
    headers = {"lastmile-public-key": b64(public_bytes(key))}
    covered = ["@method", "@authority", "@path", "@query"]
    if body is not None:
        headers["content-digest"] = f"sha-256=:{b64(hashlib.sha256(body).digest())}:"
        headers["content-type"] = content_type or "application/octet-stream"
        covered += ["content-digest", "content-type"]
    if components is not None:
        covered = components
    created = int(time.time()) if created is None else created
    nonce = secrets.token_urlsafe(16) if nonce is None else nonce
    parameters = "(" + " ".join(sf_string(name) for name in covered) + ")" + f";created={created}"
    if expires is not None:
        parameters += f";expires={expires}"
    parameters += f";nonce={sf_string(nonce)};keyid={sf_string(keyid or fingerprint(key))}"
    parameters += f";alg={sf_string(alg)};tag={sf_string(tag)}"
    base = signature_base(method, authority, path, query, headers, covered, parameters)
    headers["signature-input"] = f"{label}={parameters}"
    headers["signature"] = f"{label}=:{b64(key.sign(base.encode('ascii')))}:"
    return headers, base


def sign_url(key, method, url, **rest):
    """Like `sign`, for a URL."""
    parts = urlsplit(url)
    query = parts.query if "?" in url else None
    return sign(key, method, parts.netloc, parts.path, query, **rest)


# The private key of RFC 9421 appendix B.1.4, which is public.
RFC_KEY = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF
-----END PRIVATE KEY-----
"""

MESSAGES = "/v1/channels/prices.btc/messages"
CASES = [
    ("a JSON message", "POST", "gateway.example:8081", MESSAGES, None, "application/json", b'{"usd":3001.5}'),
    ("an empty body", "POST", "gateway.example", MESSAGES, None, "text/plain", b""),
    ("binary", "POST", "127.0.0.1:8081", MESSAGES, None, "application/octet-stream", bytes(range(256))),
    ("a batch", "POST", "[::1]:8081", MESSAGES, None, "application/x-ndjson", b'{"n":1}\n{"n":2}\n'),
    ("an encoded path and a query", "POST", "gateway.example", "/v1/channels/a%2Fb%20%C3%A9/messages", "x=%20&y=+",
     "text/plain; charset=utf-8", "héllo".encode()),
    ("an upgrade", "GET", "gateway.example:8081", "/v1/publish", None, None, None),
    ("an authority in capitals with its default port", "GET", "Gateway.Example:443", "/v1/channels/c", None, None, None),
    ("an empty query and an empty path", "GET", "gateway.example:80", "", "", None, None),
    ("a deletion", "DELETE", "gateway.example", "/v1/channels/prices.btc", "force", None, None),
]


def make_vectors():
    key = load_key(RFC_KEY.encode())
    cases = []
    for number, (about, method, authority, path, query, content_type, body) in enumerate(CASES):
        nonce = base64.urlsafe_b64encode(bytes([number] * 16)).decode().rstrip("=")
        created = 1_800_000_000 + number
        headers, base = sign(key, method, authority, path, query, content_type, body, created, nonce)
        cases.append({
            "about": about, "method": method, "authority": authority, "path": path, "query": query,
            "content_type": content_type, "body_base64": None if body is None else b64(body),
            "created": created, "nonce": nonce, "signature_base": base, "headers": headers,
        })
    return {
        "about": "Requests signed for a lastmile gateway with the key of RFC 9421 appendix B.1.4",
        "private_key": RFC_KEY, "keyid": fingerprint(key), "cases": cases,
    }


def check_vectors() -> int:
    stored = json.loads(VECTORS.read_text())
    key = load_key(stored["private_key"].encode())
    for case in stored["cases"]:
        body = None if case["body_base64"] is None else base64.b64decode(case["body_base64"])
        headers, base = sign(key, case["method"], case["authority"], case["path"], case["query"],
                             case["content_type"], body, case["created"], case["nonce"])
        if (headers, base) != (case["headers"], case["signature_base"]):
            print(f"differs: {case['about']}", file=sys.stderr)
            return 1
    rfc = json.loads((VECTORS.parent / "rfc9421-b26.json").read_text())
    headers = {name.lower(): value for name, value in rfc["headers"]}
    parameters = rfc["signature_input"].split("=", 1)[1]
    components = [word.strip('"') for word in parameters[1:parameters.index(")")].split(" ")]
    base = signature_base(rfc["method"], rfc["authority"], rfc["path"], rfc["query"], headers, components, parameters)
    if base != rfc["signature_base"] or b64(load_key(RFC_KEY.encode()).sign(base.encode())) != rfc["signature"]:
        print("differs: RFC 9421 B.2.6", file=sys.stderr)
        return 1
    print(f"{len(stored['cases'])} vectors and RFC 9421 B.2.6 agree")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Signs a request to a lastmile gateway and prints the headers as JSON.")
    parser.add_argument("--key", help="OpenSSH or PEM private key")
    parser.add_argument("--method", default="POST")
    parser.add_argument("--url")
    parser.add_argument("--content-type", default="application/json")
    parser.add_argument("--body", metavar="FILE", help="`-` for standard input; without it there is no body")
    parser.add_argument("--created", type=int, default=0, metavar="OFFSET", help="seconds from now, may be negative")
    parser.add_argument("--nonce")
    parser.add_argument("--check-vectors", action="store_true")
    parser.add_argument("--write-vectors", action="store_true")
    args = parser.parse_args()
    if args.write_vectors:
        VECTORS.write_text(json.dumps(make_vectors(), indent=2, ensure_ascii=False) + "\n")
        return 0
    if args.check_vectors:
        return check_vectors()
    if not args.key or not args.url:
        parser.error("--key and --url are needed")
    body = None
    if args.body is not None:
        body = sys.stdin.buffer.read() if args.body == "-" else Path(args.body).read_bytes()
    key = load_key(Path(args.key).read_bytes())
    headers, _ = sign_url(key, args.method, args.url, content_type=args.content_type, body=body,
                          created=int(time.time()) + args.created, nonce=args.nonce)
    print(json.dumps(headers, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
