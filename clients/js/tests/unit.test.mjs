// Units that need no gateway: event parser, backoff, transport selection, subscription, signer.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Backoff } from "../build/backoff.js";
import { ChannelSubscriptions } from "../build/channel_subscriptions.js";
import { TransportSelector } from "../build/transport_selector.js";
import { connect } from "../build/index.js";
import { Subscription } from "../build/subscription.js";
import { EventParser } from "../build/transports/sse.js";
import { Signer } from "./support/signer.mjs";

const bytes = (text) => new TextEncoder().encode(text);

function parseAll(chunks) {
  const events = [];
  const parser = new EventParser((event) => events.push(event));
  chunks.forEach((chunk) => parser.push(chunk));
  return events;
}

test("events parse at any chunk boundary", () => {
  const stream = bytes(
    "\uFEFFretry: 2000\n\n: a comment\n\nid: c1\ndata: {\"ö\":1}\n\nevent: subscribed\r\ndata:{}\r\n\r\n" +
    ":\n\ndata: one\rdata:  two\r\revent: x\n\ndata\n\nnonsense: 1\ndata: 🦊\n\ndata: never finished\n",
  );
  const expected = [
    { event: "message", data: '{"ö":1}' }, { event: "subscribed", data: "{}" },
    { event: "message", data: "one\n two" }, { event: "message", data: "" }, { event: "message", data: "🦊" },
  ];
  assert.deepEqual(parseAll([stream]), expected);
  for (let at = 0; at <= stream.length; at++) {
    assert.deepEqual(parseAll([stream.slice(0, at), stream.slice(at)]), expected, `cut at ${at}`);
  }
  assert.deepEqual(parseAll([...stream].map((byte) => Uint8Array.of(byte))), expected);
});

test("an endless event is refused", () => {
  const parser = new EventParser(() => {});
  const chunk = bytes("x".repeat(1 << 20));
  assert.throws(() => { for (let n = 0; n < 100; n++) parser.push(chunk); }, /event too long/);
});

test("backoff grows, has jitter and adds Retry-After", () => {
  const withoutJitter = new Backoff(500, 30_000, () => 1);
  assert.deepEqual([1, 2, 3, 4].map(() => withoutJitter.next()), [500, 1000, 2000, 4000]);
  for (let n = 0; n < 2000; n++) assert.ok(withoutJitter.next() <= 30_000);
  assert.equal(withoutJitter.next(7000), 37_000);
  withoutJitter.reset();
  assert.equal(withoutJitter.next(), 500);
  assert.equal(new Backoff(500, 30_000, () => 0).next(1000), 1000);
});

test("the working transport is stored for an hour", () => {
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

test("failures and early disconnects advance the selector", () => {
  const selector = new TransportSelector(["websocket", "events", "poll"], "https://three.example", () => 0);
  assert.deepEqual([selector.recordFailure(), selector.recordFailure(), selector.recordFailure()], [true, true, false]);
  assert.equal(selector.current, "websocket");
  selector.recordEarlyDisconnect();
  assert.equal(selector.current, "websocket");
  selector.recordEarlyDisconnect();
  assert.equal(selector.current, "events");
});

/** A subscription without a client. `calls` are the commands for its channel; `subscribed` and `message` simulate frames. */
function standalone(options = {}) {
  const calls = [];
  const record = (name) => () => calls.push(name);
  const channel = new ChannelSubscriptions("c", record("subscribe"), record("unsubscribe"));
  const owner = {
    resume: (member) => channel.add(member), pause: () => channel.release(), remove: (member) => channel.remove(member),
  };
  const subscription = new Subscription("c", owner, options);
  channel.add(subscription);
  channel.suspend("1");
  const gaps = [], received = [];
  subscription.on("gap", (gap) => gaps.push(gap));
  const subscribed = (offset, recovered, epoch = "k") => {
    channel.onSubscribed({ type: "subscribed", id: "1", epoch, offset, recovered });
  };
  const message = (offset, epoch = "k") => {
    channel.onMessage({ type: "message", channel: "c", epoch, offset, data: offset });
  };
  const listen = () => subscription.on("message", ({ data }) => received.push(data));
  return { channel, subscription, calls, gaps, received, subscribed, message, listen };
}

test("publications arrive once and gaps are reported", () => {
  const { channel, gaps, subscribed, message, received, listen } = standalone();
  listen();
  message(1);
  subscribed(3, false);
  [3, 4, 4, 5].forEach((offset) => message(offset));
  assert.deepEqual([received, gaps], [[4, 5], []]);
  assert.deepEqual(channel.resumeParams(), { channel: "c", since: { epoch: "k", offset: 5 } });
  channel.suspend("1");
  message(6);
  subscribed(7, true);
  [6, 7].forEach((offset) => message(offset));
  assert.deepEqual([received, gaps], [[4, 5, 6, 7], []]);
  message(9);
  assert.deepEqual(gaps.pop(), { reason: "skipped", after: { epoch: "k", offset: 7 } });
  subscribed(20, false);
  assert.deepEqual(gaps.pop(), { reason: "history_lost", after: { epoch: "k", offset: 9 } });
  subscribed(20, false);
  [18, 19, 20].forEach((offset) => message(offset));
  assert.deepEqual(gaps, [], "a gap is reported once");
  subscribed(20, false);
  assert.deepEqual(gaps, [], "no gap after the newest publication");
  subscribed(2, false, "m");
  assert.deepEqual(gaps.pop(), { reason: "history_lost", after: { epoch: "k", offset: 20 } });
  [1, 2].forEach((offset) => message(offset, "m"));
  assert.deepEqual([received.slice(-2), gaps], [[1, 2], []]);
});

test("a missing backlog is requested again", () => {
  const { channel, subscribed, message, received, listen, gaps } = standalone({ backlog: 5 });
  listen();
  assert.equal(channel.resumeParams().backlog, 5);
  subscribed(20, true);
  assert.deepEqual(channel.resumeParams().since, { epoch: "k", offset: 15 });
  [16, 17].forEach((offset) => message(offset));
  assert.deepEqual([received, gaps], [[16, 17], []]);
});

test("a full buffer pauses the subscription", async () => {
  const { subscription, calls, subscribed, message } = standalone({ buffer: 4 });
  subscribed(0, false);
  [1, 2, 3, 4, 5].forEach((offset) => message(offset));
  assert.deepEqual(calls, ["subscribe", "unsubscribe"]);
  assert.equal(subscription.isPaused, true);
  const iterator = subscription[Symbol.asyncIterator]();
  assert.equal((await iterator.next()).value.offset, 1);
  assert.deepEqual(calls, ["subscribe", "unsubscribe"]);
  assert.equal((await iterator.next()).value.offset, 2);
  assert.deepEqual(calls, ["subscribe", "unsubscribe", "subscribe"]);
});

test("drop_oldest reports a gap", async () => {
  const { subscription, gaps, subscribed, message } = standalone({ buffer: 2, overflow: "drop_oldest" });
  subscribed(0, false);
  [1, 2, 3].forEach((offset) => message(offset));
  assert.deepEqual(gaps, [{ reason: "overflow", after: { epoch: "k", offset: 0 } }]);
  const iterator = subscription[Symbol.asyncIterator]();
  assert.deepEqual([(await iterator.next()).value.offset, (await iterator.next()).value.offset], [2, 3]);
});

test("base64 data is decoded", () => {
  const { subscription, subscribed } = standalone();
  let data;
  subscription.on("message", (publication) => (data = publication.data));
  subscribed(0, false);
  subscription.onMessage({ type: "message", epoch: "k", offset: 1, data: "3q2+7w==", encoding: "base64" });
  assert.deepEqual(data, Uint8Array.of(0xde, 0xad, 0xbe, 0xef));
});

test("degraded is reported, unknown frames are ignored", async () => {
  let socket;
  class FakeWebSocket {
    readyState = 1;
    constructor() { socket = this; queueMicrotask(() => this.onopen()); }
    send(text) {
      const { type, id, channel } = JSON.parse(text);
      if (type === "ping") this.receive({ type: "welcome", connection: "c-1", ping_secs: 25, principal: null });
      if (type !== "subscribe") return;
      this.receive({ type: "subscribed", id, channel, epoch: "k", offset: 0, recovered: false });
    }
    receive(frame) { this.onmessage({ data: JSON.stringify(frame) }); }
    close() {}
  }
  const client = connect("http://gateway.invalid", { WebSocket: FakeWebSocket, transports: ["websocket"] });
  const events = [];
  const subscription = client.subscribe("c");
  for (const name of ["subscribed", "degraded", "restored", "message"]) subscription.on(name, () => events.push(name));
  await new Promise((done) => subscription.on("subscribed", done));
  for (const frame of [
    { type: "degraded", channel: "c" }, { type: "degraded", channel: "other" }, { type: "unknown", channel: "c" },
    { type: "message", channel: "c", epoch: "k", offset: 1, data: 1 }, { type: "restored", channel: "c" },
  ]) socket.receive(frame);
  assert.deepEqual(events, ["subscribed", "degraded", "message", "restored"]);
  client.close();
});

test("the signer matches the vectors", () => {
  const file = new URL("../../../tests/vectors/signatures.json", import.meta.url);
  const { private_key, cases } = JSON.parse(readFileSync(file));
  const signer = new Signer(private_key);
  for (const { about, method, authority, path, query, created, nonce, ...expected } of cases) {
    const { content_type, body_base64 } = expected;
    const url = `http://${authority}${path}${query === null ? "" : `?${query}`}`;
    const body = body_base64 === null ? undefined : Buffer.from(body_base64, "base64");
    const signed = signer.headers(method, url, content_type, body, { created, nonce });
    assert.equal(signed.base, expected.signature_base, about);
    for (const [name, value] of Object.entries(signed.headers)) assert.equal(value, expected.headers[name], about);
  }
});
