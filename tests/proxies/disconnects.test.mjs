// A client that is cut at random while messages pass gets each once and in order, or is told that history was lost.
// 500 cuts and 100,000 messages over each transport: `CUTS=500 MESSAGES=100000 node --test tests/proxies/disconnects.test.mjs`
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { cutsMidway } from "./faults/reset_mid_transfer.mjs";
import { timing } from "./recording_client.mjs";
import { Gateway, messages, openNode, pause, range, until } from "./support.mjs";

const cuts = Number(process.env.CUTS ?? 30);
const total = Number(process.env.MESSAGES ?? 5000);
/** The publisher waits for a client that is so far behind. What is kept is more than that. */
const MAX_LAG = 2000;
const BATCH = 50;

const ways = {
  "over WebSockets": { transports: ["websocket"] },
  "over server-sent events": { transports: ["events"] },
  "over polls": { transports: ["poll"] },
  // Two cuts of a young connection, and the client tries the next transport. None gets old here.
  "across switches between all three": { timing: { ...timing, stableMs: 1_200_000 } },
};

let gateway, forgetful, node;
before(async () => {
  const channels = (kept) => `subscribers = "anyone"\nbacklog_messages = ${kept}\nbacklog_bytes = 0`;
  gateway = await Gateway.start({ channels: channels(2 * MAX_LAG) });
  forgetful = await Gateway.start({ channels: channels(40) });
  node = await openNode();
});
after(() => Promise.all([gateway.close(), forgetful.close()]));

for (const [way, options] of Object.entries(ways)) {
  describe(way, () => {
    const channel = way.replaceAll(" ", "-");

    test(`${cuts} cuts while ${total} messages pass: each once, in order`, { timeout: 1_200_000 }, async (t) => {
      const { seen, box } = await open(t, gateway, channel, options);
      const began = Date.now();
      await publish(gateway, channel, total, cuts, box, () => until(() => seen.numbers.length > box.published - MAX_LAG, "the client"));
      // Which transport is cut how often is chance: it goes on until each was in use.
      const transports = options.transports ?? ["websocket", "events", "poll"];
      let last = total;
      while (!transports.every((transport) => seen.transports.includes(transport))) {
        await until(() => seen.client.state === "connected" && seen.numbers.length > last - MAX_LAG, "the client");
        box.armed += 1;
        await gateway.publishAll(channel, messages(last + 1, last + BATCH));
        last += BATCH;
      }
      await until(() => seen.numbers.length >= last, () => `${seen.numbers.length} of ${last}`);
      assert.deepEqual(seen.gaps, []);
      assert.deepEqual(seen.offsets, range(1, last));
      assert.deepEqual(seen.numbers, range(1, last));
      assert.equal(box.cutCount, box.armed);
      assert.deepEqual(seen.transports.filter((transport) => !transports.includes(transport)), []);
      const switches = seen.transports.length - 1;
      t.diagnostic(`${cuts} cuts, ${box.count} connections, ${switches} switches, ${(Date.now() - began) / 1000} s`);
    });

    test("what is lost is told where it was lost, and nothing else is", { timeout: 600_000 }, async (t) => {
      const { seen, box } = await open(t, forgetful, channel, options);
      await publish(forgetful, channel, 2000, 20, box, () => pause(5));
      let last = 2000;
      await until(async () => {
        await forgetful.publishAll(channel, messages(last + 1, ++last));
        await pause(50);
        return seen.numbers.at(-1) > 2000;
      }, "the newest");
      truthful(seen);
      assert.ok(seen.gaps.length, "too much was kept for this test");
      t.diagnostic(`${seen.gaps.length} gaps, ${last - seen.numbers.length} of ${last} lost`);
    });
  });
}

async function open(t, gateway, channel, options) {
  const box = await cutsMidway(gateway.port);
  t.after(() => box.close());
  const listener = await node.listen(box.url, channel, options);
  t.after(listener.close);
  return { box, seen: await listener.seen() };
}

/** Arms the box as often as it shall cut, each time somewhere between the first message and the last. */
async function publish(gateway, channel, count, cuts, box, breathe) {
  const when = range(1, cuts).map(() => Math.random() * count).sort((a, b) => a - b);
  for (box.published = 0; box.published < count; box.published += BATCH) {
    while (when[0] < box.published + BATCH) (when.shift(), (box.armed += 1));
    await gateway.publishAll(channel, messages(box.published + 1, box.published + BATCH));
    await breathe();
  }
}

/** Between two messages there is a loss if and only if there was a gap. */
function truthful({ offsets, numbers, gaps }) {
  assert.deepEqual(numbers, offsets);
  const told = new Set(gaps.map(({ at }) => at));
  for (let at = 0; at < offsets.length; at++) {
    const before = offsets[at - 1] ?? 0;
    assert.ok(offsets[at] > before, `${offsets[at]} after ${before}`);
    assert.equal(told.has(at), offsets[at] !== before + 1, `${before}, then ${offsets[at]}; told: ${told.has(at)}`);
  }
  for (const { at, after } of gaps) assert.equal(after, offsets[at - 1] ?? 0);
}
