"""A room of two seats with peers on two nodes, and further peers that try to join it on every node."""

import asyncio
import http.client
import json

from websockets.asyncio.client import connect

from clients import CONNECT_OPTIONS, CONNECTION_ERRORS

MAX_SEATS = 2


class Room:
    def __init__(self, nodes):
        self.nodes, self.peers, self.max_peers, self.tasks = nodes, set(), 0, []

    async def open(self):
        """Creates the room on the second node and joins from the first and the second one."""
        self.room = await asyncio.to_thread(self.create_room)
        return await self.join(1) and await self.join(0)

    def create_room(self):
        node = self.nodes[1]
        connection = http.client.HTTPConnection(node.host, node.public, timeout=60)
        connection.request("POST", "/v1/rooms", json.dumps({"max_seats": MAX_SEATS}), {"content-type": "application/json"})
        return json.loads(connection.getresponse().read())

    async def join(self, node_index):
        """Returns whether the peer was admitted."""
        node = self.nodes[node_index]
        try:
            ws = await connect(f"ws://{node.host}:{node.public}{self.room['link']}", subprotocols=["lastmile.pair.v1"], **CONNECT_OPTIONS)
            await ws.send(json.dumps({"type": "join", "secret": self.room["join_secret"]}))
            if json.loads(await asyncio.wait_for(ws.recv(), 10))["type"] != "joined":
                return False
        except CONNECTION_ERRORS:
            return False
        self.peers.add(ws)
        self.max_peers = max(self.max_peers, len(self.peers))
        self.tasks.append(asyncio.create_task(self.watch_close(ws)))
        return True

    async def watch_close(self, ws):
        await ws.wait_closed()
        self.peers.discard(ws)

    async def probe_forever(self):
        """Tries to join on every node, again and again, until it is cancelled."""
        while True:
            await asyncio.gather(*(self.join(node_index) for node_index in range(len(self.nodes))))
            await asyncio.sleep(0.5)

    async def close(self):
        for ws in list(self.peers):
            await ws.close()
        await asyncio.gather(*self.tasks, return_exceptions=True)
