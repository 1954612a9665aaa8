#!/usr/bin/env python3
"""A subscriber with the compression of an independent WebSocket library: large fragmented commands, publications printed.

    deflate.py --url ws://127.0.0.1:8080/v1/subscribe --channel prices.btc --count 3

Prints `ready` once it is subscribed, then one publication per line.
"""

import argparse
import json

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.sync.client import connect


def receive(ws, kind):
    message = json.loads(ws.recv(timeout=90))
    assert message["type"] == kind, message
    return message


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--url", required=True)
    arguments.add_argument("--channel", required=True)
    arguments.add_argument("--count", type=int, required=True)
    options = arguments.parse_args()
    with connect(options.url, subprotocols=["lastmile.v1"], open_timeout=90, proxy=None) as ws:
        (extension,) = ws.protocol.extensions
        assert isinstance(extension, PerMessageDeflate), extension
        assert extension.remote_no_context_takeover and extension.local_no_context_takeover, extension
        ws.send(['{"type":', '"hello"', "}"])
        receive(ws, "welcome")
        # Repeated data, which would compress better still with context takeover.
        for n in range(20):
            ws.send(json.dumps({"type": "ping", "id": str(n), "more": "much of the same " * 1000}))
            assert receive(ws, "pong")["id"] == str(n)
        ws.send(json.dumps({"type": "subscribe", "id": "s", "channel": options.channel}))
        receive(ws, "subscribed")
        print("ready", flush=True)
        for _ in range(options.count):
            print(json.dumps(receive(ws, "message")), flush=True)


if __name__ == "__main__":
    main()
