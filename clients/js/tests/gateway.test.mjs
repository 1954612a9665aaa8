// The client against a real gateway, over each transport and with broken connections.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import WebSocket from "ws";
import { connect, LastmileError } from "../dist/client.js";
import { collect, range } from "./support/collect.mjs";
import { Gateway } from "./support/gateway.mjs";
import { openTcpProxy } from "./support/tcp_proxy.mjs";
import { nextEvent, nextState, sleep, waitFor } from "./support/wait.mjs";

const timing = { backoffMs: 20, backoffMaxMs: 200, stableMs: 1000, openMs: 10_000, pollMs: 2000 };
/** Disconnects per transport. 500 of them take 100,000 messages. */
const cuts = Number(process.env.CUTS ?? 50);
let gateway, number = 0;
before(async () => {
  gateway = await Gateway.start();
});
after(() => gateway.close());

const channelOf = () => `test.${process.pid}.${++number}`;
const open = (t, options = {}, url = gateway.url) => {
  const client = connect(url, { WebSocket, timing, ...options });
  t.after(() => client.close());
  return client;
};

for (const transports of [["websocket"], ["events"], ["poll"]]) {
  describe(`over ${transports}`, () => {
    test("publications arrive as published", async (t) => {
      const channel = channelOf();
      await gateway.publish(channel, { n: 0 });
      const client = open(t, { transports });
      const subscription = client.subscribe(channel, { backlog: 5 });
      const { recovered, epoch } = await nextEvent(subscription, "subscribed");
      assert.equal(recovered, true);
      await gateway.publish(channel, { n: 1 });
      await gateway.publish(channel, "text", "text/plain");
      await gateway.publish(channel, Uint8Array.of(0, 255, 10), "application/octet-stream");
      const received = [];
      for await (const publication of subscription) {
        received.push(publication);
        if (received.length === 4) break;
      }
      assert.deepEqual(received.map(({ data }) => data), [{ n: 0 }, { n: 1 }, "text", Uint8Array.of(0, 255, 10)]);
      assert.deepEqual(received.map(({ offset }) => offset), [1, 2, 3, 4]);
      const [first] = received;
      assert.deepEqual([first.channel, first.epoch, first.publisher], [channel, epoch, "market-data"]);
      assert.equal(first.messageId, `${epoch}-1`);
      assert.match(first.time, /^\d{4}-\d\d-\d\dT.*Z$/);
      assert.equal(client.transport, transports[0]);
    });

    test("one client has many channels", async (t) => {
      const channels = range(1, 20).map(channelOf);
      const client = open(t, { transports });
      const all = channels.map((channel) => client.subscribe(channel));
      const received = all.map(collect);
      await Promise.all(all.map((subscription) => nextEvent(subscription, "subscribed")));
      const late = client.subscribe(channelOf());
      const receivedLate = collect(late);
      await nextEvent(late, "subscribed");
      all[0].unsubscribe();
      for (const channel of [...channels, late.channel]) await gateway.publish(channel, channel);
      const subscribed = [receivedLate, ...received.slice(1)];
      await waitFor(() => subscribed.every(({ data }) => data.length), "all channels");
      assert.deepEqual(received.map(({ data }) => data), [[], ...channels.slice(1).map((channel) => [channel])]);
      assert.deepEqual([received[0].isEnded, received[0].error], [true, undefined]);
      const again = client.subscribe(channels[0], { backlog: 1 });
      await waitFor(() => again.position, "the channel once more");
      assert.deepEqual(received.flatMap(({ gaps }) => gaps), []);
    });

    test("subscriptions share a channel", async (t) => {
      const channel = channelOf();
      const client = open(t, { transports });
      const first = client.subscribe(channel), received = collect(first);
      const second = client.subscribe(channel), receivedTwice = collect(second);
      await Promise.all([first, second].map((subscription) => nextEvent(subscription, "subscribed")));
      for (let n = 1; n <= 5; n++) await gateway.publish(channel, n);
      await waitFor(() => receivedTwice.data.length === 5, "five publications");
      // One that joins later, from the present, from the backlog and from a position.
      const live = client.subscribe(channel), receivedLive = collect(live);
      await nextEvent(live, "subscribed");
      const backlog = collect(client.subscribe(channel, { backlog: 2 }));
      const since = collect(client.subscribe(channel, { since: { epoch: first.position.epoch, offset: 1 } }));
      await waitFor(() => since.data.length === 4 && backlog.data.length === 2, "the earlier publications");
      // Each ends on its own, one by leaving its loop.
      first.unsubscribe();
      const iterated = client.subscribe(channel);
      const reading = (async () => { for await (const { data } of iterated) return data; })();
      await nextEvent(iterated, "subscribed");
      for (let n = 6; n <= 8; n++) await gateway.publish(channel, n);
      await waitFor(() => [receivedTwice, receivedLive, backlog, since].every(({ data }) => data.at(-1) === 8), "all");
      assert.equal(await reading, 6);
      assert.deepEqual(received.data, range(1, 5));
      assert.deepEqual(receivedTwice.data, range(1, 8));
      assert.deepEqual(receivedLive.data, range(6, 8));
      assert.deepEqual(backlog.data, range(4, 8));
      assert.deepEqual(since.data, range(2, 8));
      assert.deepEqual([received, receivedTwice, receivedLive, backlog, since].flatMap(({ gaps }) => gaps), []);
    });

    test("a refusal affects one channel", async (t) => {
      const client = open(t, { transports });
      const fine = client.subscribe(channelOf());
      const received = collect(fine);
      const refused = client.subscribe("members.news");
      const error = await nextEvent(refused, "ended");
      assert.ok(error instanceof LastmileError);
      assert.deepEqual([error.code, error.temporary], ["unauthenticated", false]);
      await assert.rejects(async () => { for await (const _ of refused); }, { code: "unauthenticated" });
      await waitFor(() => fine.position, "the other channel");
      await gateway.publish(fine.channel, 1);
      await waitFor(() => received.data.length === 1, "a publication");
    });

    test("a closed channel ends with an error", async (t) => {
      const channel = channelOf();
      const client = open(t, { transports });
      const subscription = client.subscribe(channel);
      await nextEvent(subscription, "subscribed");
      const ended = nextEvent(subscription, "ended");
      await gateway.closeChannel(channel);
      // Between two polls the client may subscribe to a new channel of that name: close that one as well.
      const again = () => gateway.closeChannel(channel).catch(() => {});
      if (transports[0] === "poll") await waitFor(() => Promise.race([ended, sleep(200).then(again)]), "the end");
      assert.equal((await ended).code, "channel_closed");
      const other = client.subscribe(channelOf());
      await nextEvent(other, "subscribed");
    });

    test("a bad token is final, a good one admits", async (t) => {
      const bad = open(t, { transports, token: "no.token.atall" });
      const ended = await nextEvent(bad.subscribe("members.news"), "ended");
      assert.deepEqual([ended.code, ended.temporary, bad.state], ["unauthenticated", false, "failed"]);
      const good = open(t, { transports, token: () => gateway.token() });
      await nextEvent(good.subscribe("members.news"), "subscribed");
    });

    test("an expired token is renewed without loss", async (t) => {
      let calls = 0;
      const token = () => ((calls += 1), gateway.token({ expires: calls < 3 ? "5s" : "1h" }));
      const client = open(t, { transports, token });
      const subscription = client.subscribe("members.club");
      const received = collect(subscription);
      await nextEvent(subscription, "subscribed");
      const start = subscription.position.offset;
      let total = 0;
      const publish = async () => {
        await gateway.publish("members.club", (total += 1));
        await sleep(200);
      };
      await waitFor(async () => (await publish(), calls >= 2), "another token");
      for (let n = 0; n < 5; n++) await publish();
      await waitFor(() => received.data.length >= total, "all");
      assert.deepEqual([received.offsets, received.gaps], [range(start + 1, start + total), []]);
    });

    test("random disconnects: each once, in order", async (t) => {
      const proxy = await openTcpProxy(gateway.port);
      t.after(() => proxy.close());
      const channels = [channelOf(), channelOf()];
      const client = open(t, { transports }, proxy.url);
      const all = channels.map((channel) => client.subscribe(channel));
      const received = all.map(collect);
      await Promise.all(all.map((subscription) => nextEvent(subscription, "subscribed")));
      const batches = cuts * 2, size = 50;
      for (let batch = 0; batch < batches; batch++) {
        const numbers = range(batch * size + 1, (batch + 1) * size);
        for (const channel of channels) await gateway.publishBatch(channel, numbers);
        if (batch % 2) proxy.disconnectAll();
        await sleep(Math.random() * 40);
      }
      const total = batches * size;
      const counts = () => received.map(({ data }) => data.length);
      await waitFor(() => counts().every((count) => count >= total), () => `${total}, received ${counts()}`, 120_000);
      for (const { data, offsets, gaps } of received) {
        assert.deepEqual(gaps, []);
        assert.deepEqual(offsets, range(1, total));
        assert.deepEqual(data, range(1, total));
      }
      assert.ok(proxy.count > cuts / 5, `${proxy.count} connections`);
    });

    test("lost history is reported as a gap", async (t) => {
      const proxy = await openTcpProxy(gateway.port);
      t.after(() => proxy.close());
      const channel = `bare.${channelOf()}`;
      const client = open(t, { transports }, proxy.url);
      const subscription = client.subscribe(channel);
      const received = collect(subscription);
      await nextEvent(subscription, "subscribed");
      const gap = nextEvent(subscription, "gap");
      // The client cannot reconnect before the publication.
      proxy.isRefusing = true;
      proxy.disconnectAll();
      await gateway.publish(channel, "lost");
      proxy.isRefusing = false;
      assert.deepEqual((await gap).reason, "history_lost");
      if (transports[0] === "poll") return;
      await gateway.publish(channel, "received");
      await waitFor(() => received.data.length, "the next publication");
      assert.equal(received.gaps.length, 1);
    });

    test("a slow iterator gets the whole backlog", async (t) => {
      const channel = channelOf();
      const client = open(t, { transports });
      const subscription = client.subscribe(channel, { buffer: 50 });
      const gaps = [];
      subscription.on("gap", (gap) => gaps.push(gap));
      await nextEvent(subscription, "subscribed");
      for (let n = 1; n <= 1000; n += 100) await gateway.publishBatch(channel, range(n, n + 99));
      const offsets = [];
      for await (const { offset } of subscription) {
        offsets.push(offset);
        if (offset % 100 === 0) await sleep(20);
        if (offset === 1000) break;
      }
      assert.deepEqual([offsets, gaps], [range(1, 1000), []]);
    });

    test("a gateway restart is reported as a gap", async (t) => {
      const other = await Gateway.start();
      t.after(() => other.close());
      const proxy = await openTcpProxy(() => other.port);
      t.after(() => proxy.close());
      const client = open(t, { transports }, proxy.url);
      const subscription = client.subscribe("c");
      const received = collect(subscription);
      await nextEvent(subscription, "subscribed");
      await other.publish("c", 1);
      await waitFor(() => received.data.length === 1, "the first");
      await other.stop();
      await other.run();
      await waitFor(() => received.gaps.length, "the gap");
      await waitFor(() => client.state === "connected", "the connection");
      await other.publish("c", 2);
      await waitFor(() => received.data.length === 2, "the second");
      assert.deepEqual(received.data, [1, 2]);
      assert.equal(received.gaps[0].reason, "history_lost");
    });
  });
}

test("changes of transport lose nothing", async (t) => {
  const proxy = await openTcpProxy(gateway.port);
  t.after(() => proxy.close());
  // No connection becomes stable, so every second disconnect changes the transport, also on a slow machine.
  const client = open(t, { timing: { ...timing, stableMs: 600_000 } }, proxy.url);
  const used = new Set();
  client.on("state", ({ state, transport }) => state === "connected" && used.add(transport));
  const subscription = client.subscribe(channelOf());
  const received = collect(subscription);
  await nextEvent(subscription, "subscribed");
  let n = 0;
  while (used.size < 3 && n < 20_000) {
    await gateway.publishBatch(subscription.channel, range(n + 1, n + 20));
    n += 20;
    await waitFor(() => client.state === "connected", "a connection");
    proxy.disconnectAll();
    await sleep(Math.random() * 20);
  }
  await waitFor(() => received.data.length >= n, "all");
  assert.deepEqual([...used].sort(), ["events", "poll", "websocket"]);
  assert.deepEqual([received.offsets, received.gaps], [range(1, n), []]);
});

test("without a WebSocket events are used", async (t) => {
  if (globalThis.WebSocket) return t.skip("this Node has a WebSocket");
  const client = open(t, { WebSocket: undefined });
  await nextEvent(client.subscribe(channelOf()), "subscribed");
  assert.equal(client.transport, "events");
});

test("a session without channels stays open", async (t) => {
  const client = open(t);
  const states = [];
  client.on("state", ({ state }) => states.push(state));
  const subscription = client.subscribe(channelOf());
  await nextEvent(subscription, "subscribed");
  subscription.unsubscribe();
  await sleep(100);
  assert.equal(client.state, "connected");
  const other = client.subscribe(channelOf());
  client.close();
  assert.equal((await other[Symbol.asyncIterator]().next()).done, true);
  assert.deepEqual(states, ["connecting", "connected", "closed"]);
  await assert.rejects(client.reply("c", "m", 1), { code: "closed" });
  assert.equal(await nextEvent(client.subscribe("c"), "ended").then((error) => error.code), "closed");
});

test("a drain is reported as draining", async (t) => {
  const other = await Gateway.start();
  t.after(() => other.close());
  const client = open(t, {}, other.url);
  await nextEvent(client.subscribe("c"), "subscribed");
  const waiting = nextState(client, "waiting");
  await other.stop();
  assert.equal((await waiting).error.code, "draining");
});

test("replies and answers", async (t) => {
  const other = await Gateway.start({ channels: 'subscribers = "anyone"\nreplies = true' });
  t.after(() => other.close());
  const publisher = await other.answerReplies({ ticket: 17 });
  t.after(() => publisher.close());
  const client = open(t, {}, other.url);
  const message = nextEvent(client.subscribe("support"), "message");
  await waitFor(() => client.state === "connected", "the connection");
  const publish = async () => (await other.publish("support", "a question"), Promise.race([message, sleep(50)]));
  await waitFor(publish, "a message");
  const { messageId } = await message;
  await client.reply("support", messageId, { text: "yes" });
  assert.deepEqual(await client.ask("support", messageId, { text: "a ticket?" }), { ticket: 17 });
  assert.deepEqual(publisher.replies, [{ text: "yes" }, { text: "a ticket?" }]);
  await nextEvent(client.subscribe("bare.c"), "subscribed");
  const refusal = (error) => error instanceof LastmileError && !error.temporary;
  await assert.rejects(client.reply("bare.c", messageId, 1), refusal);
});
