// A proxy that cuts the gateway's output at a random byte. Each increment of `armed` cuts once: the next chunk is
// passed on in part, then all connections end with a FIN or a reset. `cutCount` counts the cuts.
import { openTcpProxy } from "../../../clients/js/tests/support/tcp_proxy.mjs";

export async function cutMidTransfer(port) {
  const proxy = await openTcpProxy(port, ({ client, upstream }) => {
    let isCut = false;
    client.pipe(upstream);
    upstream.on("data", (chunk) => {
      if (isCut) return;
      isCut = proxy.cutCount < proxy.armed;
      const end = isCut ? Math.floor(Math.random() * chunk.length) : chunk.length;
      const isFull = !client.write(chunk.subarray(0, end));
      if (isCut) {
        proxy.cutCount += 1;
        proxy.disconnectAll(Math.random() < 0.5 ? "close" : "reset");
      } else if (isFull) {
        upstream.pause();
        client.once("drain", () => upstream.resume());
      }
    });
  });
  return Object.assign(proxy, { armed: 0, cutCount: 0 });
}
