// What needs no gateway: the reader of events, the waits, the choice of a transport, one subscription.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Backoff } from "../build/backoff.js";
import { TransportSelector } from "../build/transport_selector.js";
import { connect } from "../build/index.js";
import { Subscription } from "../build/subscription.js";
import { EventParser } from "../build/transports/sse.js";
import { Signer } from "./support/signer.mjs";

const bytes = (text) => new TextEncoder().encode(text);

function parsed(chunks) {
  const events = [];
  const parser = new EventParser((event) => events.push(event));
  chunks.forEach((chunk) => parser.push(chunk));
  return events;
}

test("a stream of events reads the same wherever it is cut", () => {
  const stream = bytes(
    "\uFEFFretry: 2000\n\n: a comment\n\nid: c1\ndata: {\"ö\":1}\n\nevent: subscribed\r\ndata:{}\r\n\r\n" +
    ":\n\ndata: one\rdata:  two\r\revent: x\n\ndata\n\nnonsense: 1\ndata: 🦊\n\ndata: never finished\n",
  );
  const expected = [
    { event: "message", data: '{"ö":1}' }, { event: "subscribed", data: "{}" }, { event: "message", data: "one\n two" },
    { event: "message", data: "" }, { event: "message", data: "🦊" },
  ];
  assert.deepEqual(parsed([stream]), expected);
  for (let at = 0; at <= stream.length; at++) {
    assert.deepEqual(parsed([stream.slice(0, at), stream.slice(at)]), expected, `cut at ${at}`);
  }
  assert.deepEqual(parsed([...stream].map((byte) => Uint8Array.of(byte))), expected);
});

test("an event without an end is refused before it fills the memory", () => {
  const parser = new EventParser(() => {});
  const chunk = bytes("x".repeat(1 << 20));
  assert.throws(() => { for (let n = 0; n < 100; n++) parser.push(chunk); }, /event too long/);
});

test("waits grow, are spread over their whole range, and honour what the gateway asks for", () => {
  const longest = new Backoff(500, 30_000, () => 1);
  assert.deepEqual([1, 2, 3, 4].map(() => longest.next()), [500, 1000, 2000, 4000]);
  for (let n = 0; n < 2000; n++) assert.ok(longest.next() <= 30_000);
  assert.equal(longest.next(7000), 37_000);
  longest.reset();
  assert.equal(longest.next(), 500);
  assert.equal(new Backoff(500, 30_000, () => 0).next(1000), 1000);
});

test("the first transport that works is remembered until it is time to try the better one again", () => {
  let now = 0;
  const order = ["websocket", "events", "poll"];
  const selector = new TransportSelector(order, "https://one.example", () => now);
  assert.equal(selector.current, "websocket");
  assert.ok(selector.recordFailure());
  assert.equal(selector.current, "events");
  selector.recordSuccess();
  selector.recordDisconnect();
  assert.equal(selector.current, "events");
  const other = new TransportSelector(order, "https://one.example", () => now);
  assert.equal(other.current, "events");
  assert.equal(new TransportSelector(order, "https://two.example", () => now).current, "websocket");
  now = 3_600_001;
  selector.recordDisconnect();
  assert.equal(selector.current, "websocket");
});

test("after a round without success there is a wait, and a transport that is cut twice is left", () => {
  const selector = new TransportSelector(["websocket", "events", "poll"], "https://three.example", () => 0);
  assert.deepEqual([selector.recordFailure(), selector.recordFailure(), selector.recordFailure()], [true, true, false]);
  assert.equal(selector.current, "websocket");
  selector.recordEarlyDisconnect();
  assert.equal(selector.current, "websocket");
  selector.recordEarlyDisconnect();
  assert.equal(selector.current, "events");
});

/** A subscription without a client, and what it calls of one. */
function alone(options = {}) {
  const calls = [];
  const owner = { subscribe: () => calls.push("subscribe"), unsubscribe: () => calls.push("unsubscribe"), remove: () => calls.push("remove") };
  const subscription = new Subscription("c", owner, options);
  const told = [];
  subscription.on("gap", (gap) => told.push(gap));
  const say = (offset, recovered, epoch = "k") => subscription.onSubscribed({ type: "subscribed", id: "", epoch, offset, recovered });
  const give = (offset, epoch = "k") => subscription.onMessage({ type: "message", channel: "c", epoch, offset, data: offset });
  const got = [];
  return { subscription, calls, told, say, give, got, listen: () => subscription.on("message", ({ data }) => got.push(data)) };
}

test("each publication is handed over once, and every loss is told", () => {
  const { subscription, told, say, give, got, listen } = alone();
  listen();
  give(1);
  say(3, false);
  [3, 4, 4, 5].forEach((offset) => give(offset));
  assert.deepEqual([got, told], [[4, 5], []]);
  assert.deepEqual(subscription.resumeParams(), { channel: "c", since: { epoch: "k", offset: 5 } });
  subscription.suspend();
  give(6);
  say(7, true);
  [6, 7].forEach((offset) => give(offset));
  assert.deepEqual([got, told], [[4, 5, 6, 7], []]);
  give(9);
  assert.deepEqual(told.pop(), { reason: "skipped", after: { epoch: "k", offset: 7 } });
  say(20, false);
  assert.deepEqual(told.pop(), { reason: "history_lost", after: { epoch: "k", offset: 9 } });
  say(20, false);
  [18, 19, 20].forEach((offset) => give(offset));
  assert.deepEqual(told, [], "a loss is told once");
  say(20, false);
  assert.deepEqual(told, [], "who has the newest one misses nothing");
  say(2, false, "m");
  assert.deepEqual(told.pop(), { reason: "history_lost", after: { epoch: "k", offset: 20 } });
  [1, 2].forEach((offset) => give(offset, "m"));
  assert.deepEqual([got.slice(-2), told], [[1, 2], []]);
});

test("a backlog that never arrived is asked for again", () => {
  const { subscription, say, give, got, listen, told } = alone({ backlog: 5 });
  listen();
  assert.equal(subscription.resumeParams().backlog, 5);
  say(20, true);
  assert.deepEqual(subscription.resumeParams().since, { epoch: "k", offset: 15 });
  [16, 17].forEach((offset) => give(offset));
  assert.deepEqual([got, told], [[16, 17], []]);
});

test("a slow iterator makes the subscription pause and go on from where it was", async () => {
  const { subscription, calls, say, give } = alone({ buffer: 4 });
  say(0, false);
  [1, 2, 3, 4, 5].forEach((offset) => give(offset));
  assert.deepEqual(calls, ["unsubscribe"]);
  assert.equal(subscription.isPaused, true);
  const iterator = subscription[Symbol.asyncIterator]();
  assert.equal((await iterator.next()).value.offset, 1);
  assert.deepEqual(calls, ["unsubscribe"]);
  assert.equal((await iterator.next()).value.offset, 2);
  assert.deepEqual(calls, ["unsubscribe", "subscribe"]);
});

test("a buffer that drops the oldest says so", async () => {
  const { subscription, told, say, give } = alone({ buffer: 2, overflow: "drop_oldest" });
  say(0, false);
  [1, 2, 3].forEach((offset) => give(offset));
  assert.deepEqual(told, [{ reason: "overflow", after: { epoch: "k", offset: 0 } }]);
  const iterator = subscription[Symbol.asyncIterator]();
  assert.deepEqual([(await iterator.next()).value.offset, (await iterator.next()).value.offset], [2, 3]);
});

test("bytes arrive as bytes", () => {
  const { subscription, say } = alone();
  let data;
  subscription.on("message", (publication) => (data = publication.data));
  say(0, false);
  subscription.onMessage({ type: "message", epoch: "k", offset: 1, data: "3q2+7w==", encoding: "base64" });
  assert.deepEqual(data, Uint8Array.of(0xde, 0xad, 0xbe, 0xef));
});

test("a node that is cut off is told to the subscription, and what is not known is passed over", async () => {
  let socket;
  class Played {
    readyState = 1;
    constructor() { socket = this; queueMicrotask(() => this.onopen()); }
    send(text) {
      const { type, id, channel } = JSON.parse(text);
      if (type === "ping") this.say({ type: "welcome", connection: "c-1", ping_secs: 25, principal: null });
      if (type === "subscribe") this.say({ type: "subscribed", id, channel, epoch: "k", offset: 0, recovered: false });
    }
    say(frame) { this.onmessage({ data: JSON.stringify(frame) }); }
    close() {}
  }
  const client = connect("http://gateway.invalid", { WebSocket: Played, transports: ["websocket"] });
  const told = [];
  const subscription = client.subscribe("c");
  for (const name of ["subscribed", "degraded", "restored", "message"]) subscription.on(name, () => told.push(name));
  await new Promise((done) => subscription.on("subscribed", done));
  for (const frame of [
    { type: "degraded", channel: "c" }, { type: "degraded", channel: "other" }, { type: "news of next year", channel: "c" },
    { type: "message", channel: "c", epoch: "k", offset: 1, data: 1 }, { type: "restored", channel: "c" },
  ]) socket.say(frame);
  assert.deepEqual(told, ["subscribed", "degraded", "message", "restored"]);
  client.close();
});

test("the tests' signer makes the vectors of the repository", () => {
  const { private_key, cases } = JSON.parse(readFileSync(new URL("../../../tests/vectors/signatures.json", import.meta.url)));
  const signer = new Signer(private_key);
  for (const { about, method, authority, path, query, content_type, body_base64, created, nonce, signature_base, headers } of cases) {
    const url = `http://${authority}${path}${query === null ? "" : `?${query}`}`;
    const body = body_base64 === null ? undefined : Buffer.from(body_base64, "base64");
    const made = signer.headers(method, url, content_type, body, { created, nonce });
    assert.equal(made.base, signature_base, about);
    for (const [name, value] of Object.entries(made.headers)) assert.equal(value, headers[name], about);
  }
});
