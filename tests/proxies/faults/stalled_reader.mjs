// A connection whose reader stops: the gateway's output stays in its buffers until `resume`.
import { forward, openTcpProxy } from "../../../clients/js/tests/support/tcp_proxy.mjs";

export async function openStallingProxy(port) {
  const proxy = await openTcpProxy(port);
  proxy.stall = () => proxy.pairs.forEach(({ client, upstream }) => (upstream.unpipe(client), upstream.pause()));
  proxy.resume = () => proxy.pairs.forEach(forward);
  return proxy;
}
