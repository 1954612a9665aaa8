"""Publishers and subscribers that reconnect after every fault, and the check of their deliveries.

Every publication has unique data and is sent once: an unacknowledged one may be delivered, but never twice. A subscriber
that loses its node resumes from its position on another one.
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

from env import signer

CONNECTION_ERRORS = (OSError, ConnectionClosed, InvalidHandshake, InvalidMessage, TimeoutError, EOFError)
CONNECT_OPTIONS = {"compression": None, "ping_interval": None, "open_timeout": 60, "close_timeout": 1, "proxy": None,
           "max_queue": None}

# Concurrent handshakes: more would only compete for the CPU of this process.
HANDSHAKE_LIMIT = asyncio.Semaphore(40)


class Record:
    """Deliveries, acknowledgements and failures of all clients."""

    def __init__(self):
        self.delivered = collections.defaultdict(dict)  # channel -> (epoch, offset) -> data
        self.epochs = collections.defaultdict(set)
        self.acknowledged = {}  # data -> (channel, epoch, offset)
        self.failures = []
        self.deliveries = 0
        self.refused = collections.Counter()
        self.unknown_outcome = []
        self.latencies = []
        self.closes = collections.Counter()
        self.node_closes = []  # (moment, node) of each subscriber connection closed by its node
        self.notices = collections.defaultdict(list)  # type of any other frame to a subscriber -> moments

    def add_failure(self, text):
        if len(self.failures) < 20:
            self.failures.append(text)

    def check(self, subscribers):
        """Checks order and completeness. To be called once all publications have arrived."""
        for channel, seen in self.delivered.items():
            if len(set(seen.values())) != len(seen):
                self.add_failure(f"{channel}: a publication was stored twice")
            if len(self.epochs[channel]) > 1:
                self.add_failure(f"{channel}: epochs {self.epochs[channel]}")
        newest = {}
        for data, (channel, epoch, offset) in self.acknowledged.items():
            delivered = self.delivered[channel].get((epoch, offset))
            if delivered != data:
                self.add_failure(f"{channel}: {data} was acknowledged as {epoch}-{offset}, but {delivered} was delivered there")
            # Acknowledged publications of one publisher keep the order in which they were sent.
            publisher, n = data.split("-")
            if newest.get((publisher, channel), (0, -1))[0] > offset:
                self.add_failure(f"{channel}: {data} is out of order")
            newest[publisher, channel] = (offset, int(n))
        for one in subscribers:
            if not one.is_complete:
                self.add_failure(f"{one.channel}: a subscriber could not recover")


class Subscriber:
    def __init__(self, record, nodes, node_index, channel):
        self.record, self.nodes, self.node_index, self.channel = record, nodes, node_index, channel
        self.home_node, self.ws, self.is_returning_home = node_index, None, False
        self.epoch, self.offset = None, 0
        self.reconnects, self.is_connected, self.is_complete, self.is_resetting = 0, False, True, False

    async def run(self):
        pause = 0.05
        while True:
            try:
                await self.run_connection()
                raise EOFError
            except CONNECTION_ERRORS as error:
                if self.is_connected and not self.is_returning_home:
                    self.reconnects += 1
                    received = getattr(error, "rcvd", None)
                    self.record.closes[received.code if received else "cut"] += 1
                    if received:
                        self.record.node_closes.append((time.monotonic(), self.node_index))
                    pause = 0.05
            self.is_connected = False
            # Reconnect to a node other than the lost one.
            self.node_index = self.home_node if self.is_returning_home else (self.node_index + random.choice([1, 2])) % len(self.nodes)
            self.is_returning_home = False
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * 2, 1)

    async def run_connection(self):
        node = self.nodes[self.node_index]
        async with HANDSHAKE_LIMIT:
            self.ws = ws = await connect(
                f"ws://{node.host}:{node.public}/v1/subscribe", subprotocols=["lastmile.v1"], **CONNECT_OPTIONS)
            await ws.send('{"type":"hello"}')
            await self.subscribe(ws)
        async with ws:
            async for text in ws:
                message = json.loads(text)
                kind = message["type"]
                if kind == "message":
                    self.on_message(message)
                elif kind == "subscribed":
                    self.on_subscribed(message)
                elif kind == "error":
                    self.record.refused[f"subscriber: {message['code']}"] += 1
                    await asyncio.sleep(0.2)
                    await self.subscribe(ws)
                elif kind == "unsubscribed":
                    self.record.refused[f"unsubscribed: {message['reason']}"] += 1
                else:
                    self.record.notices[kind].append(time.monotonic())

    async def return_home(self):
        """Reconnects to the initial node, as a load balancer would do."""
        if self.node_index != self.home_node:
            self.is_returning_home = True
            await self.ws.close()

    async def subscribe(self, ws):
        since = {"since": {"epoch": self.epoch, "offset": self.offset}} if self.epoch else {}
        await ws.send(json.dumps({"type": "subscribe", "id": "1", "channel": self.channel, **since}))

    def on_subscribed(self, message):
        if self.epoch is None:
            self.epoch, self.offset = message["epoch"], message["offset"]
        elif not message["recovered"]:
            # The backlog follows, from its first publication on.
            self.is_complete, self.is_resetting = False, True
            self.epoch, self.offset = message["epoch"], message["offset"]
        self.is_connected = True

    def on_message(self, message):
        epoch, offset, data = message["epoch"], message["offset"], message["data"]
        if self.is_resetting:
            self.is_resetting, self.offset = False, offset - 1
        if (epoch, offset) != (self.epoch, self.offset + 1):
            self.record.add_failure(f"{self.channel}: {epoch}-{offset} after {self.epoch}-{self.offset}")
        self.epoch, self.offset = epoch, offset
        self.record.deliveries += 1
        self.record.epochs[self.channel].add(epoch)
        if self.record.delivered[self.channel].setdefault((epoch, offset), data) != data:
            self.record.add_failure(f"{self.channel}: two publications have {epoch}-{offset}")


class ReplayedRequest:
    """A signed request that is sent to several nodes: at most one accepts it."""

    def __init__(self, key, node, channel, data):
        self.authority, self.path = f"{node.host}:{node.publish}", f"/v1/channels/{quote(channel, safe='')}/messages"
        self.body = json.dumps(data).encode()
        self.headers, _ = signer.sign(key, "POST", self.authority, self.path, content_type="application/json", body=self.body)
        self.accepted = 0

    async def send(self, node):
        """Returns the HTTP status, or 0 without a response."""
        status = await asyncio.to_thread(self.send_blocking, node)
        self.accepted += status == 200
        return status

    def send_blocking(self, node):
        connection = http.client.HTTPConnection(node.host, node.publish, timeout=10)
        try:
            connection.request("POST", self.path, self.body, {**self.headers, "Host": self.authority})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()


class Publisher:
    """Publishes over one WebSocket; reconnects to another node when its own is lost."""

    def __init__(self, record, nodes, node_index, channels, key, rate):
        self.record, self.nodes, self.node_index, self.key = record, nodes, node_index, key
        self.home_node, self.channels, self.rate = node_index, channels, rate
        self.unanswered, self.sent, self.is_enabled = {}, 0, True
        self.ws, self.is_returning_home = None, False
        self.ack_times, self.refusal_times = [], []  # moments

    async def run(self):
        while True:
            node = self.nodes[self.node_index]
            authority = f"{node.host}:{node.publish}"
            try:
                headers, _ = signer.sign(self.key, "GET", authority, "/v1/publish")
                async with connect(f"ws://{authority}/v1/publish", additional_headers=headers, **CONNECT_OPTIONS) as ws:
                    self.ws = ws
                    sending = asyncio.create_task(self.send(ws))
                    try:
                        async for text in ws:
                            self.on_message(json.loads(text))
                    finally:
                        sending.cancel()
            except CONNECTION_ERRORS:
                pass
            self.record.unknown_outcome += self.unanswered
            self.unanswered.clear()
            self.node_index = self.home_node if self.is_returning_home else (self.node_index + 1) % len(self.nodes)
            self.is_returning_home = False
            await asyncio.sleep(0.1)

    async def return_home(self):
        if self.node_index != self.home_node:
            self.is_returning_home = True
            await self.ws.close()

    async def send(self, ws):
        try:
            while True:
                if self.is_enabled:
                    data = f"{self.home_node}-{self.sent}"
                    channel = self.channels[self.sent % len(self.channels)]
                    self.sent += 1
                    self.unanswered[data] = time.monotonic()
                    await ws.send(json.dumps({"type": "publish", "id": data, "channel": channel, "data": data}))
                await asyncio.sleep(1 / self.rate)
        except ConnectionClosed:
            pass

    def on_message(self, message):
        now = time.monotonic()
        if message["type"] == "published":
            sent_at = self.unanswered.pop(message["id"], None)
            if sent_at is None:
                self.record.add_failure(f"{message['id']} was acknowledged twice or after the connection was lost")
                return
            self.record.latencies.append(now - sent_at)
            self.ack_times.append(now)
            position = message["channel"], message["epoch"], message["offset"]
            self.record.acknowledged[message["id"]] = position
        elif message["type"] == "error":
            self.unanswered.pop(message["id"], None)
            self.refusal_times.append(now)
            self.record.refused[message["code"]] += 1

    def first_ack_after(self, moment):
        return next((at - moment for at in self.ack_times if at >= moment), None)

    def first_refusal_after(self, moment):
        return next((at - moment for at in self.refusal_times if at >= moment), None)

    def longest_ack_gap(self, since, until):
        """The longest time between two acknowledgements, in seconds."""
        marks = [since, *(at for at in self.ack_times if since <= at <= until), until]
        return max(after - before for before, after in zip(marks, marks[1:]))
