// A network where a connection may be overtaken: each second one is accepted at once, but reaches the gateway after the
// one that was made later, or after a while. What goes through is late as well, and connections do not last.
import { PassThrough } from "node:stream";
import { setTimeout as pause } from "node:timers/promises";
import { listenTcp } from "../lib/tcp_proxy.mjs";

const OVERTAKE_MS = 300;
const LATE_MS = 30;
const LIFE_MS = 700;

export async function reorders(port) {
  let overtaken;
  const box = await listenTcp(port, (pair) => {
    const { number, client, upstream } = pair;
    const go = () => {
      late(client, upstream);
      late(upstream, client);
      setTimeout(pair.close, LIFE_MS * (0.5 + Math.random()));
    };
    if (number % 2) {
      const timer = setTimeout(() => overtaken?.(), OVERTAKE_MS);
      overtaken = () => {
        overtaken = undefined;
        clearTimeout(timer);
        box.overtaken += 1;
        go();
      };
    } else {
      go();
      setTimeout(() => overtaken?.(), LATE_MS);
    }
  });
  box.overtaken = 0;
  return box;
}

/** Bytes in their order, each a while after it came. */
async function late(from, to) {
  const through = from.pipe(new PassThrough({ highWaterMark: 1 << 20 }));
  for await (const chunk of through) {
    await pause(Math.random() * LATE_MS);
    if (to.destroyed) return;
    to.write(chunk);
  }
  to.end();
}
