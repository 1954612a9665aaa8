// Proxies that spoil what they carry: the client finds the transport that gets through, and remembers it. The gateway
// of these tests is a script that speaks all three, so that each case is the proxy's doing alone.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import WebSocket, { WebSocketServer } from "ws";
import { connect } from "../dist/client.js";
import { becomes, once, pause, until } from "./support/wait.mjs";

const timing = { openMs: 3000, stableMs: 1000, backoffMs: 10, backoffMaxMs: 50, pollMs: 300, pongMs: 200 };

/** A gateway with one channel; `faults` says what stands in the way. */
async function script(t, faults = {}) {
  const published = [];
  const waiting = new Set();
  const asked = [];
  const messageOf = (offset) => ({
    type: "message", channel: "c", message_id: `k-${offset}`, epoch: "k", offset, time: "", publisher: "p", data: offset,
  });
  const subscribed = (since) => ({ type: "subscribed", channel: "c", epoch: "k", offset: published.length, recovered: since !== undefined });
  const behind = (since) => published.slice(since).map((_, index) => messageOf(since + index + 1));
  const server = createServer(async (request, response) => {
    const url = new URL(request.url, "http://gateway");
    const since = url.searchParams.has("since") ? Number(url.searchParams.get("since").split("-")[1]) : undefined;
    const at = since ?? published.length;
    asked.push({ path: url.pathname, since, token: request.headers.authorization });
    const refusal = faults.refuse?.(asked.length, request);
    if (refusal) {
      response.writeHead(refusal.status, { "content-type": "application/problem+json", ...refusal.headers });
      return response.end(JSON.stringify({ type: `/problems/${refusal.slug}`, title: refusal.slug, status: refusal.status }));
    }
    if (url.pathname === "/v1/events") {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.flushHeaders();
      if (faults.buffersEvents) return;
      const write = (frame, event) => response.write(`${event ? `event: ${event}\n` : ""}id: x\ndata: ${JSON.stringify(frame)}\n\n`);
      write(subscribed(since), "subscribed");
      behind(at).forEach((frame) => write(frame));
      const push = (frame) => write(frame);
      waiting.add(push);
      request.on("close", () => waiting.delete(push));
      if (faults.cutsEventsAfterMs) setTimeout(() => response.destroy(), faults.cutsEventsAfterMs);
      return;
    }
    const answer = () => {
      const messages = behind(at);
      if (response.writableEnded) return;
      response.writeHead(200, { "content-type": "application/json" });
      response.end(JSON.stringify({ messages, cursor: "x", recovered: true, subscribed: [subscribed(since)] }));
    };
    if (since === undefined || published.length > at) return answer();
    waiting.add(answer);
    const timer = setTimeout(answer, Number(url.searchParams.get("wait")) * 1000);
    response.on("close", () => (waiting.delete(answer), clearTimeout(timer)));
  });
  const sockets = new WebSocketServer({ noServer: true });
  server.on("upgrade", (request, socket, head) => {
    asked.push({ path: request.url });
    if (faults.stripsUpgrade) return socket.end("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n");
    sockets.handleUpgrade(request, socket, head, (ws) => {
      if (faults.cutsSocketsAfterMs) setTimeout(() => socket.destroy(), faults.cutsSocketsAfterMs);
      if (faults.mutesSockets) return;
      const push = (frame) => ws.send(JSON.stringify(frame));
      ws.on("message", (text) => {
        const { type, id, since } = JSON.parse(text);
        if (faults.staysSilent && waiting.size) return;
        if (type === "hello" || type === "ping") push(type === "hello" || !waiting.has(push) ? { type: "welcome", ping_secs: faults.pingSecs ?? 25 } : { type: "pong", id });
        if (type !== "subscribe") return;
        push({ ...subscribed(since?.offset), id });
        behind(since?.offset ?? published.length).forEach(push);
        waiting.add(push);
      });
      ws.on("close", () => waiting.delete(push));
    });
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const url = `http://127.0.0.1:${server.address().port}`;
  const client = connect(url, { WebSocket, timing, ...faults.options });
  t.after(() => {
    client.close();
    server.closeAllConnections();
    server.close();
  });
  const publish = () => {
    published.push(published.length + 1);
    [...waiting].forEach((tell) => tell(messageOf(published.length)));
  };
  return { client, url, publish, asked };
}

/** Publishes all the while, and checks that everything arrives once and in order. */
async function carries(t, faults, transport) {
  const { client, url, publish, asked } = await script(t, faults);
  const got = [], gaps = [];
  const subscription = client.subscribe("c");
  subscription.on("message", ({ data }) => got.push(data));
  subscription.on("gap", (gap) => gaps.push(gap));
  await once(subscription, "subscribed");
  const start = subscription.position.offset;
  for (let n = 0; n < 60; n++) {
    publish();
    await pause(30);
  }
  await until(() => got.length >= 60, () => `all, over ${client.transport}`);
  assert.deepEqual([got, gaps], [Array.from({ length: 60 }, (_, index) => start + index + 1), []]);
  if (transport) await until(() => client.transport === transport, () => `${transport}, it is ${client.transport}`);
  return { client, url, asked };
}

test("nothing in the way: the WebSocket", (t) => carries(t, {}, "websocket"));

test("a proxy that strips the upgrade: server-sent events, and the next client begins there", async (t) => {
  const { url } = await carries(t, { stripsUpgrade: true }, "events");
  const next = connect(url, { WebSocket, timing });
  t.after(() => next.close());
  const tried = [];
  next.on("state", ({ state, transport }) => state === "connecting" && tried.push(transport));
  await once(next.subscribe("c"), "subscribed");
  assert.deepEqual(tried, ["events"]);
});

test("a proxy that cuts WebSockets 200 ms after the 101", (t) => carries(t, { cutsSocketsAfterMs: 200 }, "events"));

test("a proxy that lets WebSockets through and carries nothing", (t) => carries(t, { mutesSockets: true }, "events"));

test("a proxy that strips the upgrade and buffers server-sent events", (t) =>
  carries(t, { stripsUpgrade: true, buffersEvents: true }, "poll"));

test("a proxy that strips the upgrade and cuts streams again and again", (t) =>
  carries(t, { stripsUpgrade: true, cutsEventsAfterMs: 150 }, undefined));

test("a connection that is silent although it was pinged is ended, and replaced", async (t) => {
  const { client } = await script(t, { pingSecs: 0.1, staysSilent: true, options: { transports: ["websocket"] } });
  const ended = becomes(client, "waiting");
  client.subscribe("c");
  assert.equal((await ended).error.code, "ping_timeout");
});

test("Retry-After is waited for", async (t) => {
  const refuse = (count) => count === 1 && { status: 503, slug: "engine-unavailable", headers: { "retry-after": "1" } };
  const { client } = await script(t, { refuse, options: { transports: ["events"] } });
  const began = Date.now();
  const subscription = client.subscribe("c");
  const { retryMs, error } = await becomes(client, "waiting");
  assert.ok(retryMs >= 1000, `${retryMs}`);
  assert.deepEqual([error.code, error.temporary], ["engine_unavailable", true]);
  await once(subscription, "subscribed");
  assert.ok(Date.now() - began >= 1000);
});

test("a token that ends between two polls is replaced, and the poll goes on where it was", async (t) => {
  let asked = 0;
  const refuse = (count, { headers }) => count > 3 && headers.authorization === "Bearer t1" && { status: 401, slug: "unauthenticated" };
  const { client, publish, asked: requests } = await script(t, {
    refuse, options: { transports: ["poll"], token: () => `t${(asked += 1)}` },
  });
  const got = [];
  const subscription = client.subscribe("c");
  subscription.on("message", ({ data }) => got.push(data));
  await once(subscription, "subscribed");
  let total = 0;
  await until(() => {
    publish();
    total += 1;
    return requests.some(({ token }) => token === "Bearer t2");
  }, "the other token");
  await until(() => got.length >= total, "all");
  assert.deepEqual(got, Array.from({ length: total }, (_, index) => index + 1));
});

test("a callback that fails to get a token is tried again, unless it says that it is of no use", async (t) => {
  let asked = 0;
  const token = () => {
    asked += 1;
    if (asked < 3) throw new Error("the network is away");
    return "t";
  };
  const { client } = await script(t, { options: { token } });
  await once(client.subscribe("c"), "subscribed");
  assert.equal(asked, 3);
  const { LastmileError } = await import("../dist/client.js");
  const signedOut = () => { throw new LastmileError("unauthenticated", "signed out"); };
  const { client: other } = await script(t, { options: { token: signedOut } });
  const ended = once(other.subscribe("c"), "ended");
  assert.equal((await ended).message, "signed out");
  assert.equal(other.state, "failed");
});
