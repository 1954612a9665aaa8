// Rooms against a real gateway: join, messages, reconnects and the end of a room.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import WebSocket from "ws";
import { joinRoom, openRoom } from "../dist/client.js";
import { Gateway } from "./support/gateway.mjs";
import { openTcpProxy } from "./support/tcp_proxy.mjs";
import { nextEvent, nextState, sleep, waitFor } from "./support/wait.mjs";

const options = { WebSocket, timing: { backoffMs: 20, backoffMaxMs: 100 } };
let gateway;
before(async () => {
  gateway = await Gateway.start({ more: "[rooms]\nmax_exchanges = 0\n" });
});
after(() => gateway.close());

async function joinTwo(t, url = gateway.url) {
  const first = await openRoom(gateway.url, options);
  t.after(() => first.leave());
  const joined = nextEvent(first, "peer_joined");
  const second = await joinRoom(url, { room: first.room, secret: first.joinSecret }, options);
  t.after(() => second.leave());
  await joined;
  return [first, second];
}

test("peers join by secret and exchange messages", async (t) => {
  const [first, second] = await joinTwo(t);
  assert.deepEqual([...first.peers.keys()], [second.peer]);
  assert.deepEqual([...second.peers.keys()], [first.peer]);
  const message = nextEvent(first, "message");
  await second.send({ type: "offer", sdp: "v=0" });
  const { data, from, seq, sender } = await message;
  assert.deepEqual([data, from, seq], [{ type: "offer", sdp: "v=0" }, second.peer, 1]);
  assert.equal(sender.remote, "127.0.0.1");
  const left = nextEvent(first, "peer_left");
  second.leave();
  assert.deepEqual(await left, { peer: second.peer, reason: "left" });
});

test("a code admits a peer, a wrong secret does not", async (t) => {
  const first = await openRoom(gateway.url, { ...options, code: "words" });
  t.after(() => first.leave());
  assert.match(first.code, /^\w+-\w+-\w+$/);
  const second = await joinRoom(gateway.url, { code: first.code }, options);
  t.after(() => second.leave());
  assert.equal(second.room, first.room);
  const refused = joinRoom(gateway.url, { room: first.room, secret: "wrong" }, options);
  await assert.rejects(refused, { code: "unknown_room", temporary: false });
});

test("a message to an empty room is refused", async (t) => {
  const room = await openRoom(gateway.url, options);
  t.after(() => room.leave());
  await assert.rejects(room.send(1), { code: "peer_absent", temporary: true });
});

test("a reconnect resumes the seat and its messages", async (t) => {
  const proxy = await openTcpProxy(gateway.port);
  t.after(() => proxy.close());
  const [first, second] = await joinTwo(t, proxy.url);
  const received = [], sent = [];
  second.on("message", ({ data }) => received.push(data));
  for (let n = 1; n <= 30; n++) {
    await first.send(n);
    sent.push(n);
    if (n % 10 === 0) {
      const resumed = nextEvent(second, "resumed");
      proxy.disconnectAll();
      assert.deepEqual(await resumed, { recovered: true });
    }
    await sleep(1);
  }
  await waitFor(() => received.length === sent.length, "all messages");
  assert.deepEqual(received, sent);
  // A message that is sent while disconnected waits for the reconnect.
  const message = nextEvent(first, "message");
  const disconnected = nextState(second, "waiting");
  proxy.disconnectAll();
  await disconnected;
  await second.send("late");
  assert.equal((await message).data, "late");
});

test("end closes the room for all peers", async (t) => {
  const [first, second] = await joinTwo(t);
  const closed = nextEvent(second, "closed");
  first.end();
  assert.equal((await closed).code, "peer_left");
  await assert.rejects(second.send(1), { code: "room_closed" });
});
