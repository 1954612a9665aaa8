// A network that reorders and delays connections. Every second connection reaches the gateway after the next one, or
// after `OVERTAKE_TIMEOUT_MS`. All bytes are delayed and connections end early. `reordered` counts overtaken ones.
import { PassThrough } from "node:stream";
import { openTcpProxy } from "../../../clients/js/tests/support/tcp_proxy.mjs";
import { sleep } from "../../../clients/js/tests/support/wait.mjs";

const OVERTAKE_TIMEOUT_MS = 300;
const MAX_DELAY_MS = 30;
const MEAN_LIFETIME_MS = 700;

export async function reorderConnections(port) {
  let startHeld;
  const proxy = await openTcpProxy(port, (pair) => {
    const { number, client, upstream } = pair;
    const start = () => {
      forwardDelayed(client, upstream);
      forwardDelayed(upstream, client);
      setTimeout(pair.close, MEAN_LIFETIME_MS * (0.5 + Math.random()));
    };
    if (number % 2) {
      const timer = setTimeout(() => startHeld?.(), OVERTAKE_TIMEOUT_MS);
      startHeld = () => {
        startHeld = undefined;
        clearTimeout(timer);
        proxy.reordered += 1;
        start();
      };
    } else {
      start();
      setTimeout(() => startHeld?.(), MAX_DELAY_MS);
    }
  });
  proxy.reordered = 0;
  return proxy;
}

/** Forwards bytes in order, each chunk after a random delay. */
async function forwardDelayed(from, to) {
  const through = from.pipe(new PassThrough({ highWaterMark: 1 << 20 }));
  for await (const chunk of through) {
    await sleep(Math.random() * MAX_DELAY_MS);
    if (to.destroyed) return;
    to.write(chunk);
  }
  to.end();
}
