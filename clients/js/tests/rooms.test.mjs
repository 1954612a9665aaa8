// Rooms against a real gateway: two peers, lost connections, the end.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import WebSocket from "ws";
import { joinRoom, openRoom } from "../dist/client.js";
import { Gateway } from "./support/gateway.mjs";
import { Proxy } from "./support/proxy.mjs";
import { becomes, once, pause, until } from "./support/wait.mjs";

const options = { WebSocket, timing: { backoffMs: 20, backoffMaxMs: 100 } };
let gateway;
before(async () => {
  gateway = await Gateway.start({ more: "[rooms]\nmax_exchanges = 0\n" });
});
after(() => gateway.close());

async function pair(t, url = gateway.url) {
  const first = await openRoom(gateway.url, options);
  t.after(() => first.leave());
  const joined = once(first, "peer_joined");
  const second = await joinRoom(url, { room: first.room, secret: first.joinSecret }, options);
  t.after(() => second.leave());
  await joined;
  return [first, second];
}

test("two peers meet by the room's secret and pass messages", async (t) => {
  const [first, second] = await pair(t);
  assert.deepEqual([...first.peers.keys()], [second.peer]);
  assert.deepEqual([...second.peers.keys()], [first.peer]);
  const heard = once(first, "message");
  await second.send({ type: "offer", sdp: "v=0" });
  const { data, from, seq, sender } = await heard;
  assert.deepEqual([data, from, seq], [{ type: "offer", sdp: "v=0" }, second.peer, 1]);
  assert.equal(sender.remote, "127.0.0.1");
  const left = once(first, "peer_left");
  second.leave();
  assert.deepEqual(await left, { peer: second.peer, reason: "left" });
});

test("a code lets in once, and a wrong secret not at all", async (t) => {
  const first = await openRoom(gateway.url, { ...options, code: "words" });
  t.after(() => first.leave());
  assert.match(first.code, /^\w+-\w+-\w+$/);
  const second = await joinRoom(gateway.url, { code: first.code }, options);
  t.after(() => second.leave());
  assert.equal(second.room, first.room);
  await assert.rejects(joinRoom(gateway.url, { room: first.room, secret: "wrong" }, options), { code: "unknown_room", temporary: false });
});

test("a message without a peer is refused", async (t) => {
  const room = await openRoom(gateway.url, options);
  t.after(() => room.leave());
  await assert.rejects(room.send(1), { code: "peer_absent", temporary: true });
});

test("a peer whose connection is cut gets its seat back and what it missed", async (t) => {
  const proxy = await Proxy.start(gateway.port);
  t.after(() => proxy.close());
  const [first, second] = await pair(t, proxy.url);
  const heard = [], sent = [];
  second.on("message", ({ data }) => heard.push(data));
  for (let n = 1; n <= 30; n++) {
    await first.send(n);
    sent.push(n);
    if (n % 10 === 0) {
      const resumed = once(second, "resumed");
      proxy.cut();
      assert.deepEqual(await resumed, { recovered: true });
    }
    await pause(1);
  }
  await until(() => heard.length === sent.length, "all messages");
  assert.deepEqual(heard, sent);
  // What is said while the connection is lost waits for the seat.
  const back = once(first, "message");
  const lost = becomes(second, "waiting");
  proxy.cut();
  await lost;
  await second.send("from there");
  assert.equal((await back).data, "from there");
});

test("who ends the room ends it for all", async (t) => {
  const [first, second] = await pair(t);
  const closed = once(second, "closed");
  first.end();
  assert.equal((await closed).code, "peer_left");
  await assert.rejects(second.send(1), { code: "room_closed" });
});
