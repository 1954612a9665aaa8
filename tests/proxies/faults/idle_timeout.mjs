// A proxy that resets idle connections. `timeouts` counts them.
import { forward, openTcpProxy } from "../../../clients/js/tests/support/tcp_proxy.mjs";

export async function resetIdle(port, idleMs) {
  const proxy = await openTcpProxy(port, (pair) => {
    let timer;
    const restartTimer = () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        proxy.timeouts += 1;
        pair.reset();
      }, idleMs);
    };
    restartTimer();
    for (const socket of [pair.client, pair.upstream]) {
      socket.on("data", restartTimer).on("close", () => clearTimeout(timer));
    }
    forward(pair);
  });
  proxy.timeouts = 0;
  return proxy;
}
