// The client behind each proxy, in Node and in Chromium: every publication arrives once and in order.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { bufferResponses } from "./faults/buffered_responses.mjs";
import { http10 } from "./faults/http10.mjs";
import { resetIdle } from "./faults/idle_timeout.mjs";
import { dropPackets } from "./faults/packet_loss.mjs";
import { reorderConnections } from "./faults/reordered_connections.mjs";
import { resetAfterUpgrade } from "./faults/reset_after_upgrade.mjs";
import { openHttpProxy } from "./lib/http_proxy.mjs";
import { openNginxProxy } from "./lib/nginx.mjs";
import { timing } from "./recording_client.mjs";
import { Gateway, messages, openSite, range, runtimes, sleep, waitFor } from "./support.mjs";

const MIN_MESSAGES = 300;

// Default pings are 25 s apart. Here the interval is 1 s, so that idle timeouts can be tested in seconds.
const limits = "[limits]\nping_secs = 1\npong_secs = 10\n";

/** Publications are spread over `durationMs` in `batches`, and continue until `isEnough(proxy)`. `transport` is the one
 * that is in use at the end. */
const cases = [
  { name: "upgrade stripped", open: openHttpProxy, transport: "events" },
  { name: "responses buffered", open: bufferResponses, transport: "poll" },
  { name: "large responses buffered", open: bufferResponses, bytes: 1000, durationMs: 3000, transport: "poll" },
  { name: "reset 200 ms after the upgrade", open: resetAfterUpgrade, durationMs: 4000, transport: "events" },
  {
    name: "idle timeout above the ping interval", open: (port) => resetIdle(port, 6000), batches: 2, durationMs: 16_000,
    transport: "websocket", check: (proxy) => assert.deepEqual([proxy.timeouts, proxy.count], [0, 1]),
  },
  {
    name: "idle timeout below the ping interval", open: (port) => resetIdle(port, 500), batches: 6, durationMs: 6000,
    isEnough: (proxy) => proxy.timeouts >= 3,
  },
  { name: "HTTP/1.0", open: http10, transport: "events" },
  {
    name: "connections reordered", open: reorderConnections, durationMs: 5000,
    isEnough: (proxy) => proxy.reordered >= 3,
  },
  {
    name: "packets dropped", open: (port) => dropPackets(port, { everyMs: 1000, forMs: 2500 }), batches: 30,
    durationMs: 12_000, isEnough: (proxy) => proxy.outages >= 3,
    // Shorter than an outage, so that the client detects it.
    options: { timing: { ...timing, pongMs: 1000 } },
  },
  { name: "nginx, Debian's configuration", open: openNginxProxy, transport: "events" },
  {
    name: "nginx, buffering forced",
    open: (port) => openNginxProxy(port, "proxy_ignore_headers X-Accel-Buffering;"), transport: "poll",
  },
  { name: "nginx, WebSockets enabled", open: openWebSocketNginx, transport: "websocket" },
];

function openWebSocketNginx(port) {
  const headers = 'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";';
  return openNginxProxy(port, `proxy_http_version 1.1; ${headers}`);
}

let site, gateway;
before(async () => {
  site = await openSite();
  gateway = await Gateway.start({ origins: [site.url], more: limits });
});
after(async () => {
  site.close();
  await gateway.close();
});

for (const [name, open] of Object.entries(runtimes)) {
  describe(`in ${name}`, { concurrency: cases.length }, () => {
    let runtime;
    before(async () => void (runtime = await open(site)));
    after(() => runtime.close());

    for (const [number, proxyCase] of cases.entries()) {
      test(proxyCase.name, { timeout: 300_000 }, (t) => testProxy(t, runtime, `${name}.${number}`, proxyCase));
    }
  });
}

async function testProxy(t, runtime, channel, proxyCase) {
  const { open, bytes, batches = 20, durationMs = 2500, isEnough, transport, check, options } = proxyCase;
  const proxy = await open(gateway.port);
  t.after(() => proxy.close());
  const client = await runtime.record(proxy.url, channel, options);
  t.after(client.close);
  const size = MIN_MESSAGES / batches;
  let total = 0, events;
  while (total < MIN_MESSAGES || (isEnough && !isEnough(proxy))) {
    await gateway.publishBatch(channel, messages(total + 1, total + size, bytes));
    total += size;
    await sleep(durationMs / batches);
  }
  const isComplete = async () => {
    events = await client.events();
    return events.numbers.length >= total && (!transport || events.transports.at(-1) === transport);
  };
  await waitFor(isComplete, () => `${total} over ${transport}: ${JSON.stringify(events)}`, 150_000);
  assert.deepEqual([events.numbers, events.gaps], [range(1, total), []]);
  check?.(proxy);
}
