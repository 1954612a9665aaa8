// The client against a real gateway, over each transport and through connections that are cut.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import WebSocket from "ws";
import { connect, LastmileError } from "../dist/client.js";
import { Gateway } from "./support/gateway.mjs";
import { Proxy } from "./support/proxy.mjs";
import { becomes, once, pause, until } from "./support/wait.mjs";

const timing = { backoffMs: 20, backoffMaxMs: 200, stableMs: 1000, openMs: 10_000, pollMs: 2000 };
/** 500 of them are 100,000 messages over each transport. */
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

/** What a subscription gets, and every loss. */
function collect(subscription) {
  const got = { data: [], offsets: [], gaps: [], ended: undefined };
  subscription.on("message", ({ data, offset }) => (got.data.push(data), got.offsets.push(offset)));
  subscription.on("gap", (gap) => got.gaps.push(gap));
  subscription.on("ended", (error) => (got.ended = error ?? "by itself"));
  return got;
}

const range = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

for (const transports of [["websocket"], ["events"], ["poll"]]) {
  describe(`over ${transports}`, () => {
    test("publications come as the publisher gave them", async (t) => {
      const channel = channelOf();
      await gateway.publish(channel, { n: 0 });
      const client = open(t, { transports });
      const subscription = client.subscribe(channel, { backlog: 5 });
      const { recovered, epoch } = await once(subscription, "subscribed");
      assert.equal(recovered, true);
      await gateway.publish(channel, { n: 1 });
      await gateway.publish(channel, "text", "text/plain");
      await gateway.publish(channel, Uint8Array.of(0, 255, 10), "application/octet-stream");
      const got = [];
      for await (const publication of subscription) {
        got.push(publication);
        if (got.length === 4) break;
      }
      assert.deepEqual(got.map(({ data }) => data), [{ n: 0 }, { n: 1 }, "text", Uint8Array.of(0, 255, 10)]);
      assert.deepEqual(got.map(({ offset }) => offset), [1, 2, 3, 4]);
      const [first] = got;
      assert.deepEqual([first.channel, first.epoch, first.publisher], [channel, epoch, "market-data"]);
      assert.equal(first.messageId, `${epoch}-1`);
      assert.match(first.time, /^\d{4}-\d\d-\d\dT.*Z$/);
      assert.equal(client.transport, transports[0]);
    });

    test("many channels share one client, and come and go", async (t) => {
      const channels = range(1, 20).map(channelOf);
      const client = open(t, { transports });
      const all = channels.map((channel) => client.subscribe(channel));
      const got = all.map(collect);
      await Promise.all(all.map((subscription) => once(subscription, "subscribed")));
      const late = client.subscribe(channelOf());
      const gotLate = collect(late);
      await once(late, "subscribed");
      all[0].unsubscribe();
      for (const channel of [...channels, late.channel]) await gateway.publish(channel, channel);
      await until(() => gotLate.data.length && got.slice(1).every(({ data }) => data.length), "all channels");
      assert.deepEqual(got.map(({ data }) => data), [[], ...channels.slice(1).map((channel) => [channel])]);
      assert.equal(got[0].ended, "by itself");
      const again = client.subscribe(channels[0], { backlog: 1 });
      await until(() => again.position, "the channel once more");
      assert.throws(() => client.subscribe(channels[0]), { code: "already_subscribed" });
      assert.deepEqual(got.flatMap(({ gaps }) => gaps), []);
    });

    test("a refusal is about its channel alone", async (t) => {
      const client = open(t, { transports });
      const fine = client.subscribe(channelOf());
      const got = collect(fine);
      const refused = client.subscribe("members.news");
      const error = await once(refused, "ended");
      assert.ok(error instanceof LastmileError);
      assert.deepEqual([error.code, error.temporary], ["unauthenticated", false]);
      await assert.rejects(async () => { for await (const _ of refused); }, { code: "unauthenticated" });
      await until(() => fine.position, "the other channel");
      await gateway.publish(fine.channel, 1);
      await until(() => got.data.length === 1, "a publication");
    });

    test("a channel that its publisher closes ends with that error", async (t) => {
      const channel = channelOf();
      const client = open(t, { transports });
      const subscription = client.subscribe(channel);
      await once(subscription, "subscribed");
      const ended = once(subscription, "ended");
      await gateway.closeChannel(channel);
      assert.equal((await ended).code, "channel_closed");
      const other = client.subscribe(channelOf());
      await once(other, "subscribed");
    });

    test("a bad token stops the client with an error, a good one opens what needs it", async (t) => {
      const bad = open(t, { transports, token: "no.token.atall" });
      const ended = await once(bad.subscribe("members.news"), "ended");
      assert.deepEqual([ended.code, ended.temporary, bad.state], ["unauthenticated", false, "failed"]);
      const good = open(t, { transports, token: () => gateway.token() });
      await once(good.subscribe("members.news"), "subscribed");
    });

    test("when the token runs out a new one is asked for, and nothing is missed", async (t) => {
      let asked = 0;
      const client = open(t, { transports, token: () => ((asked += 1), gateway.token({ expires: asked < 3 ? "5s" : "1h" })) });
      const subscription = client.subscribe("members.club");
      const got = collect(subscription);
      await once(subscription, "subscribed");
      const start = subscription.position.offset;
      let total = 0;
      const publish = async () => {
        await gateway.publish("members.club", (total += 1));
        await pause(200);
      };
      await until(async () => (await publish(), asked >= 2), "another token");
      for (let n = 0; n < 5; n++) await publish();
      await until(() => got.data.length >= total, "all");
      assert.deepEqual([got.offsets, got.gaps], [range(start + 1, start + total), []]);
    });

    test("cut at random many times, it hands over each publication once, in order", async (t) => {
      const proxy = await Proxy.start(gateway.port);
      t.after(() => proxy.close());
      const channels = [channelOf(), channelOf()];
      const client = open(t, { transports }, proxy.url);
      const all = channels.map((channel) => client.subscribe(channel));
      const got = all.map(collect);
      await Promise.all(all.map((subscription) => once(subscription, "subscribed")));
      const batches = cuts * 2, size = 50;
      for (let batch = 0; batch < batches; batch++) {
        for (const channel of channels) await gateway.publishAll(channel, range(batch * size + 1, (batch + 1) * size));
        if (batch % 2) proxy.cut();
        await pause(Math.random() * 40);
      }
      const total = batches * size;
      await until(() => got.every(({ data }) => data.length >= total), () => `${got.map(({ data }) => data.length)}`, 120_000);
      for (const { data, offsets, gaps } of got) {
        assert.deepEqual(gaps, []);
        assert.deepEqual(offsets, range(1, total));
        assert.deepEqual(data, range(1, total));
      }
      assert.ok(proxy.count > cuts / 5, `${proxy.count} connections`);
    });

    test("what the gateway no longer has is told as a gap", async (t) => {
      const proxy = await Proxy.start(gateway.port);
      t.after(() => proxy.close());
      const channel = `bare.${channelOf()}`;
      const client = open(t, { transports }, proxy.url);
      const subscription = client.subscribe(channel);
      const got = collect(subscription);
      await once(subscription, "subscribed");
      const gap = once(subscription, "gap");
      // Nobody is back before it is published.
      proxy.isAway = true;
      proxy.cut();
      await gateway.publish(channel, "lost");
      proxy.isAway = false;
      assert.deepEqual((await gap).reason, "history_lost");
      if (transports[0] === "poll") return;
      await gateway.publish(channel, "seen");
      await until(() => got.data.length, "what came after");
      assert.equal(got.gaps.length, 1);
    });

    test("a slow iterator gets everything that the gateway keeps, and the memory stays bounded", async (t) => {
      const channel = channelOf();
      const client = open(t, { transports });
      const subscription = client.subscribe(channel, { buffer: 50 });
      const gaps = [];
      subscription.on("gap", (gap) => gaps.push(gap));
      await once(subscription, "subscribed");
      for (let batch = 0; batch < 10; batch++) await gateway.publishAll(channel, range(batch * 100 + 1, batch * 100 + 100));
      const offsets = [];
      for await (const { offset } of subscription) {
        offsets.push(offset);
        if (offset % 100 === 0) await pause(20);
        if (offset === 1000) break;
      }
      assert.deepEqual([offsets, gaps], [range(1, 1000), []]);
    });

    test("a gateway that is started again begins a new epoch, which is told", async (t) => {
      const other = await Gateway.start();
      t.after(() => other.close());
      const proxy = await Proxy.start(() => other.port);
      t.after(() => proxy.close());
      const client = open(t, { transports }, proxy.url);
      const subscription = client.subscribe("c");
      const got = collect(subscription);
      await once(subscription, "subscribed");
      await other.publish("c", 1);
      await until(() => got.data.length === 1, "the first");
      await other.stop();
      await other.run();
      await until(() => got.gaps.length, "the gap");
      await until(() => client.state === "connected", "the connection");
      await other.publish("c", 2);
      await until(() => got.data.length === 2, "the second");
      assert.deepEqual(got.data, [1, 2]);
      assert.equal(got.gaps[0].reason, "history_lost");
    });
  });
}

test("what is cut goes on over another transport without a loss", async (t) => {
  const proxy = await Proxy.start(gateway.port);
  t.after(() => proxy.close());
  // However slow the machine is, no connection gets so old that its cut is no reason to try the next transport.
  const client = open(t, { timing: { ...timing, stableMs: 600_000 } }, proxy.url);
  const used = new Set();
  client.on("state", ({ state, transport }) => state === "connected" && used.add(transport));
  const subscription = client.subscribe(channelOf());
  const got = collect(subscription);
  await once(subscription, "subscribed");
  let n = 0;
  while (used.size < 3 && n < 20_000) {
    await gateway.publishAll(subscription.channel, range(n + 1, n + 20));
    n += 20;
    await until(() => client.state === "connected", "a connection");
    proxy.cut();
    await pause(Math.random() * 20);
  }
  await until(() => got.data.length >= n, "all");
  assert.deepEqual([...used].sort(), ["events", "poll", "websocket"]);
  assert.deepEqual([got.offsets, got.gaps], [range(1, n), []]);
});

test("without a WebSocket it takes server-sent events", async (t) => {
  if (globalThis.WebSocket) return t.skip("this program has a WebSocket");
  const client = open(t, { WebSocket: undefined });
  await once(client.subscribe(channelOf()), "subscribed");
  assert.equal(client.transport, "events");
});

test("a session without a credential and without a channel lasts, and closing is clean", async (t) => {
  const client = open(t);
  const states = [];
  client.on("state", ({ state }) => states.push(state));
  const subscription = client.subscribe(channelOf());
  await once(subscription, "subscribed");
  subscription.unsubscribe();
  await pause(100);
  assert.equal(client.state, "connected");
  const other = client.subscribe(channelOf());
  client.close();
  assert.equal((await other[Symbol.asyncIterator]().next()).done, true);
  assert.deepEqual(states, ["connecting", "connected", "closed"]);
  await assert.rejects(client.reply("c", "m", 1), { code: "closed" });
  assert.equal(await once(client.subscribe("c"), "ended").then((error) => error.code), "closed");
});

test("a drain of the gateway is no failure of the transport", async (t) => {
  const other = await Gateway.start();
  t.after(() => other.close());
  const client = open(t, {}, other.url);
  await once(client.subscribe("c"), "subscribed");
  const waiting = becomes(client, "waiting");
  await other.stop();
  assert.equal((await waiting).error.code, "draining");
});

test("replies reach the publisher, its answers come back, and what a channel does not take is refused", async (t) => {
  const other = await Gateway.start({ channels: 'subscribers = "anyone"\nreplies = true' });
  t.after(() => other.close());
  const publisher = await other.answer({ ticket: 17 });
  t.after(() => publisher.close());
  const client = open(t, {}, other.url);
  const message = once(client.subscribe("support"), "message");
  await until(() => client.state === "connected", "the connection");
  await until(async () => (await other.publish("support", "a question"), Promise.race([message, pause(50)])), "a message");
  const { messageId } = await message;
  await client.reply("support", messageId, { text: "yes" });
  assert.deepEqual(await client.ask("support", messageId, { text: "a ticket?" }), { ticket: 17 });
  assert.deepEqual(publisher.replies, [{ text: "yes" }, { text: "a ticket?" }]);
  await once(client.subscribe("bare.c"), "subscribed");
  const refusal = (error) => error instanceof LastmileError && !error.temporary;
  await assert.rejects(client.reply("bare.c", messageId, 1), refusal);
});
