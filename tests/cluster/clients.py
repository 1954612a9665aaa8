"""Publishers and subscribers that go on whatever happens, and the check of what they saw.

Every publication carries words of its own, and is sent once: what was not acknowledged may have been accepted, and may
come, but never twice. A subscriber that loses its node goes to another one with the position that it has.
"""

import asyncio
import collections
import http.client
import json
import random
import time
from urllib.parse import quote

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from env import signed, signer

GONE = (OSError, ConnectionClosed, InvalidHandshake, InvalidMessage, TimeoutError, EOFError)
OPTIONS = {"compression": None, "ping_interval": None, "open_timeout": 60, "close_timeout": 1, "proxy": None,
           "max_queue": None}


# Handshakes that this one process does at once; more only wait for its processor.
OPENING = asyncio.Semaphore(40)


class Record:
    """What all of them saw."""

    def __init__(self):
        self.truth = collections.defaultdict(dict)  # channel -> (epoch, offset) -> data
        self.epochs = collections.defaultdict(set)
        self.acknowledged = {}  # data -> (channel, epoch, offset)
        self.faults = []
        self.deliveries = 0
        self.refused = collections.Counter()
        self.unknown = []
        self.latencies = []
        self.closes = collections.Counter()
        self.ends = []  # (moment, node) of each connection of a subscriber that its node closed
        self.told = collections.defaultdict(list)  # type of another word for subscribers -> moments

    def fault(self, text):
        if len(self.faults) < 20:
            self.faults.append(text)

    def check(self, subscribers):
        """To be called once everything has arrived."""
        for channel, seen in self.truth.items():
            if len(set(seen.values())) != len(seen):
                self.fault(f"{channel}: something was published twice")
            if len(self.epochs[channel]) > 1:
                self.fault(f"{channel}: epochs {self.epochs[channel]}")
        newest = {}
        for data, (channel, epoch, offset) in self.acknowledged.items():
            delivered = self.truth[channel].get((epoch, offset))
            if delivered != data:
                self.fault(f"{channel}: {data} was acknowledged as {epoch}-{offset}, and {delivered} was delivered there")
            # Acknowledged ones of one publisher have the order in which they were sent.
            publisher, n = data.split("-")
            if newest.get((publisher, channel), (0, -1))[0] > offset:
                self.fault(f"{channel}: {data} is out of order")
            newest[publisher, channel] = (offset, int(n))
        for one in subscribers:
            if not one.is_whole:
                self.fault(f"{one.channel}: a subscriber was told that something is missing")


class Subscriber:
    def __init__(self, record, nodes, at, channel):
        self.record, self.nodes, self.at, self.channel = record, nodes, at, channel
        self.home, self.ws, self.is_called = at, None, False
        self.epoch, self.offset = None, 0
        self.reconnects, self.is_connected, self.is_whole, self.is_anew = 0, False, True, False

    async def run(self):
        pause = 0.05
        while True:
            try:
                await self.listen()
                raise EOFError
            except GONE as gone:
                if self.is_connected and not self.is_called:
                    self.reconnects += 1
                    received = getattr(gone, "rcvd", None)
                    self.record.closes[received.code if received else "cut"] += 1
                    if received:
                        self.record.ends.append((time.monotonic(), self.at))
                    pause = 0.05
            self.is_connected = False
            # Another node than the one that was lost.
            self.at = self.home if self.is_called else (self.at + random.choice([1, 2])) % len(self.nodes)
            self.is_called = False
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * 2, 1)

    async def listen(self):
        node = self.nodes[self.at]
        async with OPENING:
            self.ws = ws = await connect(
                f"ws://{node.host}:{node.public}/v1/subscribe", subprotocols=["lastmile.v1"], **OPTIONS)
            await ws.send('{"type":"hello"}')
            await self.subscribe(ws)
        async with ws:
            async for text in ws:
                message = json.loads(text)
                kind = message["type"]
                if kind == "message":
                    self.take(message)
                elif kind == "subscribed":
                    self.begin(message)
                elif kind == "error":
                    self.record.refused[f"subscriber: {message['code']}"] += 1
                    await asyncio.sleep(0.2)
                    await self.subscribe(ws)
                elif kind == "unsubscribed":
                    self.record.refused[f"unsubscribed: {message['reason']}"] += 1
                else:
                    self.record.told[kind].append(time.monotonic())

    async def go_home(self):
        """Back to the node where it began, as a balancer would have it."""
        if self.at != self.home:
            self.is_called = True
            await self.ws.close()

    async def subscribe(self, ws):
        since = {"since": {"epoch": self.epoch, "offset": self.offset}} if self.epoch else {}
        await ws.send(json.dumps({"type": "subscribe", "id": "1", "channel": self.channel, **since}))

    def begin(self, message):
        if self.epoch is None:
            self.epoch, self.offset = message["epoch"], message["offset"]
        elif not message["recovered"]:
            # What there is of the backlog comes now, from wherever it begins.
            self.is_whole, self.is_anew = False, True
            self.epoch, self.offset = message["epoch"], message["offset"]
        self.is_connected = True

    def take(self, message):
        epoch, offset, data = message["epoch"], message["offset"], message["data"]
        if self.is_anew:
            self.is_anew, self.offset = False, offset - 1
        if (epoch, offset) != (self.epoch, self.offset + 1):
            self.record.fault(f"{self.channel}: {epoch}-{offset} after {self.epoch}-{self.offset}")
        self.epoch, self.offset = epoch, offset
        self.record.deliveries += 1
        self.record.epochs[self.channel].add(epoch)
        if self.record.truth[self.channel].setdefault((epoch, offset), data) != data:
            self.record.fault(f"{self.channel}: two publications have {epoch}-{offset}")


class Once:
    """A signed request that is sent to several nodes: one of them at most accepts it."""

    def __init__(self, key, node, channel, data):
        self.authority, self.path = f"{node.host}:{node.publish}", f"/v1/channels/{quote(channel, safe='')}/messages"
        self.body = json.dumps(data).encode()
        self.headers, _ = signer.sign(key, "POST", self.authority, self.path, content_type="application/json", body=self.body)
        self.accepted = 0

    async def send(self, node):
        """The status, or 0 if there was no answer."""
        status = await asyncio.to_thread(self.exchange, node)
        self.accepted += status == 200
        return status

    def exchange(self, node):
        connection = http.client.HTTPConnection(node.host, node.publish, timeout=10)
        try:
            connection.request("POST", self.path, self.body, {**self.headers, "Host": self.authority})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()


class Publisher:
    """Streams over one WebSocket; on another node as soon as its own is gone."""

    def __init__(self, record, nodes, at, channels, key, rate):
        self.record, self.nodes, self.at, self.key = record, nodes, at, key
        self.home, self.channels, self.rate = at, channels, rate
        self.waiting, self.sent, self.is_on = {}, 0, True
        self.ws, self.is_called = None, False
        self.acks, self.refusals = [], []  # moments

    async def run(self):
        while True:
            node = self.nodes[self.at]
            authority = f"{node.host}:{node.publish}"
            try:
                headers = signed(self.key, authority, "/v1/publish")
                async with connect(f"ws://{authority}/v1/publish", additional_headers=headers, **OPTIONS) as ws:
                    self.ws = ws
                    sending = asyncio.create_task(self.send(ws))
                    try:
                        async for text in ws:
                            self.take(json.loads(text))
                    finally:
                        sending.cancel()
            except GONE:
                pass
            self.record.unknown += self.waiting
            self.waiting.clear()
            self.at = self.home if self.is_called else (self.at + 1) % len(self.nodes)
            self.is_called = False
            await asyncio.sleep(0.1)

    async def go_home(self):
        if self.at != self.home:
            self.is_called = True
            await self.ws.close()

    async def send(self, ws):
        try:
            while True:
                if self.is_on:
                    data = f"{self.home}-{self.sent}"
                    channel = self.channels[self.sent % len(self.channels)]
                    self.sent += 1
                    self.waiting[data] = time.monotonic()
                    await ws.send(json.dumps({"type": "publish", "id": data, "channel": channel, "data": data}))
                await asyncio.sleep(1 / self.rate)
        except ConnectionClosed:
            pass

    def take(self, message):
        now = time.monotonic()
        if message["type"] == "published":
            began = self.waiting.pop(message["id"], None)
            if began is None:
                self.record.fault(f"{message['id']} was acknowledged twice or late")
                return
            self.record.latencies.append(now - began)
            self.acks.append(now)
            place = message["channel"], message["epoch"], message["offset"]
            self.record.acknowledged[message["id"]] = place
        elif message["type"] == "error":
            self.waiting.pop(message["id"], None)
            self.refusals.append(now)
            self.record.refused[message["code"]] += 1

    def first_ack_after(self, moment):
        return next((at - moment for at in self.acks if at >= moment), None)

    def first_refusal_after(self, moment):
        return next((at - moment for at in self.refusals if at >= moment), None)

    def longest_silence(self, since, until):
        """Seconds between two acknowledgements."""
        marks = [since, *(at for at in self.acks if since <= at <= until), until]
        return max(after - before for before, after in zip(marks, marks[1:]))
