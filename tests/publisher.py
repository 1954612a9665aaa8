#!/usr/bin/env python3
"""A publisher on Python's standard HTTP client: signed publications, refusals and channel management.

    publisher.py --key KEY.pem --url http://127.0.0.1:8081 --channel prices.btc

Prints the response to each accepted publication, one per line. Exits with an error at the first unexpected response.
"""

import argparse
import http.client
import json
import sys
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import signer


class Publisher:
    def __init__(self, key, url):
        self.key = key
        self.authority = urlsplit(url).netloc
        self.connection = http.client.HTTPConnection(self.authority, timeout=90)

    def signed(self, method, path, body=None, content_type="application/json", **wrong):
        path, _, query = path.partition("?")
        headers, _ = signer.sign(self.key, method, self.authority, path, query or None, content_type, body, **wrong)
        return headers

    def send(self, method, path, headers, body=None):
        self.connection.request(method, path, body=body, headers=headers)
        response = self.connection.getresponse()
        return response.status, response.headers.get_content_type(), response.read()

    def call(self, method, path, body=None, **wrong):
        return self.send(method, path, self.signed(method, path, body, **wrong), body)


def expect(answer, status, problem=None):
    received, content_type, body = answer
    if received != status:
        sys.exit(f"expected {status}, got {received}: {body.decode()}")
    if problem is not None:
        if content_type != "application/problem+json":
            sys.exit(f"expected a problem, got {content_type}")
        if not json.loads(body)["type"].endswith("/problems/" + problem):
            sys.exit(f"expected {problem}, got {body.decode()}")
    return json.loads(body) if body else None


def publish(publisher, messages):
    print(json.dumps(expect(publisher.call("POST", messages, b'{"usd": 3001.5}'), 200)))
    print(json.dumps(expect(publisher.call("POST", messages + "?a=b%20c", "é".encode(), content_type="text/plain"), 200)))
    print(json.dumps(expect(publisher.call("POST", messages, bytes(range(64)), content_type="image/png"), 200)))
    print(json.dumps(expect(publisher.call("POST", messages, b"", content_type="text/plain"), 200)))
    lines = b'{"n":1}\n{"n":2}\n'
    for answer in expect(publisher.call("POST", messages, lines, content_type="application/x-ndjson"), 200):
        print(json.dumps(answer))


def check_refusals(publisher, messages):
    body = b'{"usd": 1}'

    def post(**wrong):
        return publisher.call("POST", messages, body, **wrong)

    expect(publisher.send("POST", messages, {"content-type": "application/json"}, body), 401, "signature-missing")
    expect(post(created=int(time.time()) - 120), 401, "signature-stale")
    expect(post(created=int(time.time()) + 120), 401, "signature-stale")
    expect(post(expires=int(time.time()) - 1), 401, "signature-stale")
    expect(post(tag="other"), 401, "signature-invalid")
    expect(post(alg="rsa-pss-sha512"), 401, "signature-invalid")
    expect(post(nonce="short"), 401, "signature-invalid")
    expect(post(components=["@method", "@authority", "@path", "content-digest", "content-type"]), 401,
           "signature-invalid")
    expect(post(components=["@authority", "@method", "@path", "@query", "content-digest", "content-type"]), 401,
           "signature-invalid")
    expect(publisher.send("POST", messages, publisher.signed("POST", messages, body), b'{"usd": 2}'), 401,
           "digest-mismatch")
    headers = publisher.signed("POST", messages, body)
    headers["content-digest"] = headers["content-digest"].replace("sha-256=:", "sha-256=:AA")
    expect(publisher.send("POST", messages, headers, body), 401, "signature-invalid")
    expect(publisher.call("POST", messages, b'"' + b"x" * 100 + b'"'), 413, "message-too-large")
    expect(publisher.call("POST", messages, b"{"), 400, "malformed")
    unknown_publisher = Publisher(Ed25519PrivateKey.generate(), "http://" + publisher.authority)
    expect(unknown_publisher.call("POST", messages, body), 401, "key-unknown")
    expect(post(keyid=signer.fingerprint(unknown_publisher.key)), 401, "key-unknown")
    expect(unknown_publisher.call("POST", messages, body, keyid=signer.fingerprint(publisher.key)), 401, "signature-invalid")

    headers = publisher.signed("POST", messages, body)
    print(json.dumps(expect(publisher.send("POST", messages, headers, body), 200)))
    expect(publisher.send("POST", messages, headers, body), 401, "signature-replayed")


def manage_channel(publisher):
    path = "/v1/channels/" + quote("of python/é", safe="")
    expect(publisher.call("GET", path), 404, "channel-unknown")
    expect(publisher.call("PUT", path, b'{"max_messages":10}'), 201)
    expect(publisher.call("PUT", path, b'{"max_messages":10}'), 200)
    expect(publisher.call("PUT", path, b'{"max_messages":11}'), 409, "channel-exists")
    state = expect(publisher.call("GET", path), 200)
    if (state["channel"], state["limits"]["max_messages"]) != ("of python/é", 10):
        sys.exit(f"not the channel that was created: {state}")
    expect(publisher.call("DELETE", path), 204)
    expect(publisher.call("DELETE", path), 404, "channel-unknown")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--key", required=True, help="OpenSSH or PEM private key")
    parser.add_argument("--url", required=True)
    parser.add_argument("--channel", required=True)
    args = parser.parse_args()
    publisher = Publisher(signer.load_key(Path(args.key).read_bytes()), args.url)
    messages = f"/v1/channels/{quote(args.channel, safe='')}/messages"
    publish(publisher, messages)
    check_refusals(publisher, messages)
    manage_channel(publisher)


if __name__ == "__main__":
    main()
