// Random disconnects while messages pass: each message arrives once and in order, or its loss is reported as a gap.
// Longer run: `CUTS=500 MESSAGES=100000 node --test tests/proxies/disconnects.test.mjs`
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { cutMidTransfer } from "./faults/reset_mid_transfer.mjs";
import { timing } from "./recording_client.mjs";
import { Gateway, messages, openNode, range, sleep, waitFor } from "./support.mjs";

const cuts = Number(process.env.CUTS ?? 30);
const total = Number(process.env.MESSAGES ?? 5000);
/** The publisher waits for a client that is this far behind. The backlog is larger. */
const MAX_LAG = 2000;
const BATCH = 50;

const cases = {
  "over WebSockets": { transports: ["websocket"] },
  "over server-sent events": { transports: ["events"] },
  "over polls": { transports: ["poll"] },
  // Two early disconnects change the transport, and with this limit every disconnect is early.
  "across transports": { timing: { ...timing, stableMs: 1_200_000 } },
};

let gateway, smallBacklogGateway, node;
before(async () => {
  const channels = (backlog) => `subscribers = "anyone"\nbacklog_messages = ${backlog}\nbacklog_bytes = 0`;
  gateway = await Gateway.start({ channels: channels(2 * MAX_LAG) });
  smallBacklogGateway = await Gateway.start({ channels: channels(40) });
  node = await openNode();
});
after(() => Promise.all([gateway.close(), smallBacklogGateway.close()]));

for (const [name, options] of Object.entries(cases)) {
  describe(name, () => {
    const channel = name.replaceAll(" ", "-");

    test(`${cuts} cuts: each once, in order`, { timeout: 1_200_000 }, async (t) => {
      const { events, proxy } = await start(t, gateway, channel, options);
      const startedAt = Date.now();
      const isNear = (published) => events.numbers.length > published - MAX_LAG;
      await publish(gateway, channel, total, cuts, proxy, () => waitFor(() => isNear(proxy.published), "the client"));
      // The transport of each cut is random: continue until every one was in use.
      const transports = options.transports ?? ["websocket", "events", "poll"];
      let last = total;
      while (!transports.every((transport) => events.transports.includes(transport))) {
        await waitFor(() => events.client.state === "connected" && isNear(last), "the client");
        proxy.armed += 1;
        await gateway.publishBatch(channel, messages(last + 1, last + BATCH));
        last += BATCH;
      }
      await waitFor(() => events.numbers.length >= last, () => `${events.numbers.length} of ${last}`);
      assert.deepEqual(events.gaps, []);
      assert.deepEqual(events.offsets, range(1, last));
      assert.deepEqual(events.numbers, range(1, last));
      assert.equal(proxy.cutCount, proxy.armed);
      assert.deepEqual(events.transports.filter((transport) => !transports.includes(transport)), []);
      const changes = events.transports.length - 1, seconds = (Date.now() - startedAt) / 1000;
      t.diagnostic(`${cuts} cuts, ${proxy.count} connections, ${changes} changes of transport, ${seconds} s`);
    });

    test("gaps exactly where messages are lost", { timeout: 600_000 }, async (t) => {
      const { events, proxy } = await start(t, smallBacklogGateway, channel, options);
      await publish(smallBacklogGateway, channel, 2000, 20, proxy, () => sleep(5));
      let last = 2000;
      await waitFor(async () => {
        await smallBacklogGateway.publishBatch(channel, messages(last + 1, ++last));
        await sleep(50);
        return events.numbers.at(-1) > 2000;
      }, "the newest");
      assertGapsMatchLosses(events);
      assert.ok(events.gaps.length, "nothing was lost: the backlog is too large for this test");
      t.diagnostic(`${events.gaps.length} gaps, ${last - events.numbers.length} of ${last} lost`);
    });
  });
}

async function start(t, gateway, channel, options) {
  const proxy = await cutMidTransfer(gateway.port);
  t.after(() => proxy.close());
  const client = await node.record(proxy.url, channel, options);
  t.after(client.close);
  return { proxy, events: await client.events() };
}

/** Publishes `count` messages and arms the proxy `cuts` times at random points between them. */
async function publish(gateway, channel, count, cuts, proxy, afterBatch) {
  const cutPoints = range(1, cuts).map(() => Math.random() * count).sort((a, b) => a - b);
  for (proxy.published = 0; proxy.published < count; proxy.published += BATCH) {
    while (cutPoints[0] < proxy.published + BATCH) (cutPoints.shift(), (proxy.armed += 1));
    await gateway.publishBatch(channel, messages(proxy.published + 1, proxy.published + BATCH));
    await afterBatch();
  }
}

/** Between two messages there is a gap event if and only if messages are missing. */
function assertGapsMatchLosses({ offsets, numbers, gaps }) {
  assert.deepEqual(numbers, offsets);
  const reported = new Set(gaps.map(({ index }) => index));
  for (const [index, offset] of offsets.entries()) {
    const previous = offsets[index - 1] ?? 0;
    assert.ok(offset > previous, `${offset} after ${previous}`);
    const isGap = offset !== previous + 1;
    assert.equal(reported.has(index), isGap, `${previous}, then ${offset}; reported: ${reported.has(index)}`);
  }
  for (const { index, after } of gaps) assert.equal(after, offsets[index - 1] ?? 0);
}
