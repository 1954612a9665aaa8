// A box that forgets connections on which nothing goes either way for a while. `idle` counts them.
import { join, listenTcp } from "../lib/tcp_proxy.mjs";

export async function cutsIdle(port, idleMs) {
  const box = await listenTcp(port, (pair) => {
    let timer;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        box.idle += 1;
        pair.reset();
      }, idleMs);
    };
    heard();
    for (const socket of [pair.client, pair.upstream]) socket.on("data", heard).on("close", () => clearTimeout(timer));
    join(pair);
  });
  box.idle = 0;
  return box;
}
