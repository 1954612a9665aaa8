// Transport fallback: the client finds a transport that works and stores it. The gateway is scripted, so each test has
// exactly one fault.
import assert from "node:assert/strict";
import { test } from "node:test";
import WebSocket from "ws";
import { connect, LastmileError } from "../dist/client.js";
import { collect, range } from "./support/collect.mjs";
import { openFakeGateway } from "./support/fake_gateway.mjs";
import { nextEvent, nextState, sleep, waitFor } from "./support/wait.mjs";

const timing = { openMs: 3000, stableMs: 1000, backoffMs: 10, backoffMaxMs: 50, pollMs: 300, pongMs: 200 };

async function start(t, { options, ...faults } = {}) {
  const gateway = await openFakeGateway(faults);
  const client = connect(gateway.url, { WebSocket, timing, ...options });
  t.after(() => (client.close(), gateway.close()));
  return { gateway, client };
}

/** Publishes continuously and checks that everything arrives once and in order, at the end over `transport`. */
async function testFallback(t, faults, transport) {
  const { gateway, client } = await start(t, faults);
  const subscription = client.subscribe("c");
  const received = collect(subscription);
  await nextEvent(subscription, "subscribed");
  const { offset } = subscription.position;
  for (let n = 0; n < 60; n++) {
    gateway.publish();
    await sleep(30);
  }
  await waitFor(() => received.data.length >= 60, () => `60 publications over ${client.transport}`);
  assert.deepEqual([received.data, received.gaps], [range(offset + 1, offset + 60), []]);
  if (transport) await waitFor(() => client.transport === transport, () => `${transport}, not ${client.transport}`);
  return gateway;
}

test("no fault: WebSocket", (t) => testFallback(t, {}, "websocket"));

test("stripped upgrade: events, stored for the next client", async (t) => {
  const { url } = await testFallback(t, { stripsUpgrade: true }, "events");
  const next = connect(url, { WebSocket, timing });
  t.after(() => next.close());
  const tried = [];
  next.on("state", ({ state, transport }) => state === "connecting" && tried.push(transport));
  await nextEvent(next.subscribe("c"), "subscribed");
  assert.deepEqual(tried, ["events"]);
});

test("WebSocket reset after 200 ms: events", (t) => testFallback(t, { cutsSocketsAfterMs: 200 }, "events"));

test("WebSocket without data: events", (t) => testFallback(t, { mutesSockets: true }, "events"));

test("stripped upgrade, buffered events: poll", (t) =>
  testFallback(t, { stripsUpgrade: true, buffersEvents: true }, "poll"));

test("stripped upgrade, broken streams: any transport", (t) =>
  testFallback(t, { stripsUpgrade: true, cutsEventsAfterMs: 150 }, undefined));

test("a ping without a pong closes the connection", async (t) => {
  const { client } = await start(t, { pingSecs: 0.1, staysSilent: true, options: { transports: ["websocket"] } });
  const ended = nextState(client, "waiting");
  client.subscribe("c");
  assert.equal((await ended).error.code, "ping_timeout");
});

test("Retry-After delays the reconnect", async (t) => {
  const refuse = (count) => count === 1 && { status: 503, slug: "engine-unavailable", headers: { "retry-after": "1" } };
  const { client } = await start(t, { refuse, options: { transports: ["events"] } });
  const startedAt = Date.now();
  const subscription = client.subscribe("c");
  const { retryMs, error } = await nextState(client, "waiting");
  assert.ok(retryMs >= 1000, `${retryMs}`);
  assert.deepEqual([error.code, error.temporary], ["engine_unavailable", true]);
  await nextEvent(subscription, "subscribed");
  assert.ok(Date.now() - startedAt >= 1000);
});

test("a provider that is away costs no change of transport", async (t) => {
  for (const transport of ["events", "poll"]) {
    const problem = { status: 503, slug: "issuer-unavailable", headers: { "retry-after": "1" } };
    const options = { transports: [transport, "websocket"], token: () => "t" };
    const { client } = await start(t, { refuse: (count) => count <= 2 && problem, options });
    const waiting = nextState(client, "waiting");
    const subscription = client.subscribe("c");
    const { error, retryMs } = await waiting;
    assert.deepEqual([error.code, error.temporary, error.status], ["issuer_unavailable", true, 4006]);
    assert.ok(retryMs >= 1000);
    await nextEvent(subscription, "subscribed");
    assert.equal(client.transport, transport);
  }
});

test("a token that expires between polls is renewed", async (t) => {
  let calls = 0;
  const refuse = (count, { headers }) => {
    return count > 3 && headers.authorization === "Bearer t1" && { status: 401, slug: "unauthenticated" };
  };
  const options = { transports: ["poll"], token: () => `t${(calls += 1)}` };
  const { gateway, client } = await start(t, { refuse, options });
  const subscription = client.subscribe("c");
  const received = collect(subscription);
  await nextEvent(subscription, "subscribed");
  let total = 0;
  await waitFor(() => {
    gateway.publish();
    total += 1;
    return gateway.requests.some(({ token }) => token === "Bearer t2");
  }, "the other token");
  await waitFor(() => received.data.length >= total, "all publications");
  assert.deepEqual(received.data, range(1, total));
});

test("token errors are retried unless final", async (t) => {
  let calls = 0;
  const token = () => {
    calls += 1;
    if (calls < 3) throw new Error("network unreachable");
    return "t";
  };
  const { client } = await start(t, { options: { token } });
  await nextEvent(client.subscribe("c"), "subscribed");
  assert.equal(calls, 3);
  const signedOut = () => { throw new LastmileError("unauthenticated", "signed out"); };
  const { client: other } = await start(t, { options: { token: signedOut } });
  const ended = nextEvent(other.subscribe("c"), "ended");
  assert.equal((await ended).message, "signed out");
  assert.equal(other.state, "failed");
});

test("a URL without a scheme is refused", () => {
  for (const url of ["127.0.0.1:8080", "localhost:8080", "live.example.com", "/live", "ftp://a.example", "https://", ""]) {
    assert.throws(() => connect(url), { code: "invalid_url" }, url);
  }
  assert.equal(connect("wss://live.example.com/base/").url, "https://live.example.com/base");
});

test("an unreachable gateway costs one transport, one token", async (t) => {
  let calls = 0, attempts = 0;
  const { gateway, client } = await start(t, { options: { token: () => `t${(calls += 1)}` } });
  const tried = new Set();
  client.on("state", ({ state, transport }) => state === "connecting" && (attempts += 1, tried.add(transport)));
  const subscription = client.subscribe("c");
  await nextEvent(subscription, "subscribed");
  const { port } = gateway.server.address();
  gateway.close();
  const before = attempts;
  await waitFor(() => attempts >= before + 10, "ten attempts");
  assert.deepEqual([[...tried], calls], [["websocket"], 1]);
  const back = await openFakeGateway({}, port);
  t.after(() => back.close());
  await nextEvent(subscription, "subscribed");
  assert.deepEqual([[...tried], calls], [["websocket"], 1]);
});

test("a gateway away at the start costs no token", async (t) => {
  const { gateway, client } = await start(t);
  client.close();
  const { port } = gateway.server.address();
  gateway.close();
  let calls = 0, attempts = 0;
  const waiting = connect(gateway.url, { WebSocket, timing, token: () => `t${(calls += 1)}` });
  t.after(() => waiting.close());
  waiting.on("state", ({ state }) => state === "connecting" && (attempts += 1));
  const subscription = waiting.subscribe("c");
  await waitFor(() => attempts >= 10, "ten attempts");
  const back = await openFakeGateway({}, port);
  t.after(() => back.close());
  await nextEvent(subscription, "subscribed");
  assert.deepEqual([waiting.transport, calls], ["websocket", 1]);
});

for (const transport of ["websocket", "events", "poll"]) {
  test(`nonsense of a token service twice: ${transport}`, async (t) => {
    const answers = ["<!doctype html>", "{}", "good"];
    let calls = 0;
    const token = () => answers[Math.min(calls++, 2)];
    const isGood = ({ token }) => token === "Bearer good" || token === "good";
    const { client } = await start(t, { refusesToken: (request) => !isGood(request), options: { token, transports: [transport] } });
    await nextEvent(client.subscribe("c"), "subscribed");
    assert.equal(calls, 3);
  });

  test(`a token service with nothing but nonsense: ${transport}`, async (t) => {
    let calls = 0;
    const token = () => ((calls += 1), "<!doctype html>");
    const { client } = await start(t, { refusesToken: () => true, options: { token, transports: [transport] } });
    const { code } = await nextEvent(client.subscribe("c"), "ended");
    assert.deepEqual([code, calls, client.state], ["unauthenticated", 3, "failed"]);
  });
}

test("a token function that never settles is called again", async (t) => {
  let calls = 0;
  const token = () => ((calls += 1) < 3 ? new Promise(() => {}) : "t");
  const { client } = await start(t, { options: { token, timing: { ...timing, openMs: 100 } } });
  const waiting = nextState(client, "waiting");
  const subscription = client.subscribe("c");
  assert.deepEqual([(await waiting).error.code, (await waiting).error.temporary], ["token", true]);
  await nextEvent(subscription, "subscribed");
  assert.equal(calls, 3);
});

test("a token near its end is not used again", async (t) => {
  let calls = 0;
  const tokenFor = (seconds) => {
    const payload = { iss: "i", sub: "alice", exp: Math.floor(Date.now() / 1000) + seconds };
    return `e30.${Buffer.from(JSON.stringify(payload)).toString("base64url")}.sig${calls}`;
  };
  const token = () => ((calls += 1), tokenFor(calls === 1 ? 30 : 3600));
  const { gateway, client } = await start(t, { cutsSocketsAfterMs: 50, options: { token, transports: ["websocket"] } });
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  const subscription = client.subscribe("c");
  await nextEvent(subscription, "subscribed");
  await nextEvent(subscription, "subscribed");
  assert.equal(calls, 1);
  // A computer that slept for a day.
  t.mock.timers.tick(86_400_000);
  await waitFor(() => calls === 2, "another token");
  for (let n = 0; n < 3; n++) await nextEvent(subscription, "subscribed");
  assert.equal(calls, 2);
  assert.ok(gateway.requests.length > 4);
});
