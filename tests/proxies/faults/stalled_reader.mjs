// A reader that stops reading: what the server sends stays where it is until it goes on.
import { join, listenTcp } from "../lib/tcp_proxy.mjs";

export async function stalls(port) {
  const box = await listenTcp(port);
  box.stall = () => box.pairs.forEach(({ client, upstream }) => (upstream.unpipe(client), upstream.pause()));
  box.goOn = () => box.pairs.forEach(join);
  return box;
}
