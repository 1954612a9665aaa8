// Whenever it is armed, the next bytes that the gateway sends are handed on up to a random one of them, and then every
// connection ends: some by a plain end, some by a reset.
import { listenTcp } from "../lib/tcp_proxy.mjs";

export async function cutsMidway(port) {
  const box = await listenTcp(port, ({ client, upstream }) => {
    let isCut = false;
    client.pipe(upstream);
    upstream.on("data", (chunk) => {
      if (isCut) return;
      isCut = box.cutCount < box.armed;
      const end = isCut ? Math.floor(Math.random() * chunk.length) : chunk.length;
      const isFull = !client.write(chunk.subarray(0, end));
      if (isCut) {
        box.cutCount += 1;
        box.cut(Math.random() < 0.5 ? "close" : "reset");
      } else if (isFull) {
        upstream.pause();
        client.once("drain", () => upstream.resume());
      }
    });
  });
  return Object.assign(box, { armed: 0, cutCount: 0 });
}
