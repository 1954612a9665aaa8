// A firewall that accepts a WebSocket upgrade and resets the connection after 200 ms. Other HTTP passes.
import { forward, openTcpProxy } from "../../../clients/js/tests/support/tcp_proxy.mjs";

export const resetAfterUpgrade = (port) => openTcpProxy(port, (pair) => {
  pair.upstream.once("data", (head) => {
    if (head.toString("latin1").startsWith("HTTP/1.1 101")) setTimeout(pair.reset, 200);
  });
  forward(pair);
});
