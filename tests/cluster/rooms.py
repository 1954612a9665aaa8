"""A room for two with peers on two nodes, and strangers who know its secret and come to every node."""

import asyncio
import http.client
import json

from websockets.asyncio.client import connect

from clients import GONE, OPTIONS

SEATS = 2


class Room:
    def __init__(self, nodes):
        self.nodes, self.peers, self.most, self.tasks = nodes, set(), 0, []

    async def open(self):
        """Its peers are on the first node and on the second one, which has the room."""
        self.about = await asyncio.to_thread(self.ask)
        return await self.join(1) and await self.join(0)

    def ask(self):
        node = self.nodes[1]
        connection = http.client.HTTPConnection(node.host, node.public, timeout=60)
        connection.request("POST", "/v1/rooms", json.dumps({"max_seats": SEATS}), {"content-type": "application/json"})
        return json.loads(connection.getresponse().read())

    async def join(self, at):
        """Whether it was let in."""
        node = self.nodes[at]
        try:
            ws = await connect(f"ws://{node.host}:{node.public}{self.about['link']}", subprotocols=["lastmile.pair.v1"], **OPTIONS)
            await ws.send(json.dumps({"type": "join", "secret": self.about["join_secret"]}))
            if json.loads(await asyncio.wait_for(ws.recv(), 10))["type"] != "joined":
                return False
        except GONE:
            return False
        self.peers.add(ws)
        self.most = max(self.most, len(self.peers))
        self.tasks.append(asyncio.create_task(self.stay(ws)))
        return True

    async def stay(self, ws):
        await ws.wait_closed()
        self.peers.discard(ws)

    async def besiege(self):
        """Comes to every node, again and again, until it is cancelled."""
        while True:
            await asyncio.gather(*(self.join(at) for at in range(len(self.nodes))))
            await asyncio.sleep(0.5)

    async def close(self):
        for ws in list(self.peers):
            await ws.close()
        await asyncio.gather(*self.tasks, return_exceptions=True)
