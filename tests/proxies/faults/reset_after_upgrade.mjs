// A firewall that lets a WebSocket begin, looks at it for 200 ms and resets it. Other HTTP goes through.
import { join, listenTcp } from "../lib/tcp_proxy.mjs";

export const cutsAfterUpgrade = (port) => listenTcp(port, (pair) => {
  pair.upstream.once("data", (head) => {
    if (head.toString("latin1").startsWith("HTTP/1.1 101")) setTimeout(pair.reset, 200);
  });
  join(pair);
});
