// Through each box, and in Node as in a browser, the client gets every message once and in order, while a publisher
// publishes straight to the gateway.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { blackHole } from "./faults/packet_loss.mjs";
import { buffers } from "./faults/buffered_responses.mjs";
import { cutsAfterUpgrade } from "./faults/reset_after_upgrade.mjs";
import { cutsIdle } from "./faults/idle_timeout.mjs";
import { http10 } from "./faults/http10.mjs";
import { nginx } from "./lib/nginx.mjs";
import { reorders } from "./faults/reordered_connections.mjs";
import { stripsUpgrade } from "./faults/stripped_upgrade.mjs";
import { timing } from "./recording_client.mjs";
import { Gateway, listeners, messages, openSite, pause, range, until } from "./support.mjs";

const TOTAL = 300;

// Real connections are pinged after 25 s and forgotten after 30 or more; here a second stands for that.
const limits = "[limits]\nping_secs = 1\npong_secs = 10\n";

/** `in`: publications are spread over so many ms, in `batches`, and go on until the box has done `enough`. `over`: the
 * transport that is left at the end. */
const boxes = [
  { name: "one that strips `Upgrade` and `Connection`", open: stripsUpgrade, over: "events" },
  { name: "one that holds every body until it ends or has 64 KiB", open: buffers, over: "poll" },
  { name: "the same, where messages are many and large", open: buffers, bytes: 1000, in: 3000, over: "poll" },
  { name: "one that cuts a WebSocket 200 ms after the 101", open: cutsAfterUpgrade, in: 4000, over: "events" },
  {
    name: "one that cuts what is idle for longer than the gateway's pings are apart",
    open: (port) => cutsIdle(port, 6000), batches: 2, in: 16_000, over: "websocket",
    check: (box) => assert.deepEqual([box.idle, box.count], [0, 1]),
  },
  {
    name: "one that cuts what is idle for less than that",
    open: (port) => cutsIdle(port, 500), batches: 6, in: 6000, enough: (box) => box.idle >= 3,
  },
  { name: "one that knows HTTP/1.0 alone", open: http10, over: "events" },
  {
    name: "one that delays connections and lets them overtake each other", open: reorders, in: 5000,
    enough: (box) => box.overtaken >= 3,
  },
  {
    name: "one that drops everything for a while, again and again",
    open: (port) => blackHole(port, { everyMs: 1000, forMs: 2500 }), batches: 30, in: 12_000, enough: (box) => box.holes >= 3,
    // The client notices such a hole before it is over.
    options: { timing: { ...timing, pongMs: 1000 } },
  },
  { name: "nginx as Debian configures it", open: nginx, over: "events" },
  {
    name: "nginx that buffers what it is asked not to",
    open: (port) => nginx(port, "proxy_ignore_headers X-Accel-Buffering;"), over: "poll",
  },
  {
    name: "nginx that knows WebSockets",
    open: (port) => nginx(port, 'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'),
    over: "websocket",
  },
];

let site, gateway;
before(async () => {
  site = await openSite();
  gateway = await Gateway.start({ origins: [site.url], more: limits });
});
after(async () => {
  site.close();
  await gateway.close();
});

for (const [program, open] of Object.entries(listeners)) {
  describe(`in ${program}, through`, { concurrency: boxes.length }, () => {
    let listener;
    before(async () => void (listener = await open(site)));
    after(() => listener.close());

    for (const [number, box] of boxes.entries()) {
      test(box.name, { timeout: 300_000 }, (t) => carries(t, listener, box, `${program}.${number}`));
    }
  });
}

async function carries(t, listener, { open, bytes, batches = 20, in: ms = 2500, enough, over, check, options }, channel) {
  const box = await open(gateway.port);
  t.after(() => box.close());
  const { seen, close } = await listener.listen(box.url, channel, options);
  t.after(close);
  const size = TOTAL / batches;
  let total = 0, last;
  while (total < TOTAL || (enough && !enough(box))) {
    await gateway.publishAll(channel, messages(total + 1, total + size, bytes));
    total += size;
    await pause(ms / batches);
  }
  const isThere = ({ numbers, transports }) => numbers.length >= total && (!over || transports.at(-1) === over);
  await until(async () => isThere((last = await seen())), () => `${total} over ${over}: ${JSON.stringify(last)}`, 150_000);
  assert.deepEqual([last.numbers, last.gaps], [range(1, total), []]);
  check?.(box);
}
