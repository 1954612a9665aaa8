// A TCP proxy for tests: forwards connections and can break them.
import { connect, createServer } from "node:net";

/** Forwards connections to a port, or to the one that `port()` returns. `relay(pair)` replaces plain forwarding; a pair
 * has `client`, `upstream`, `close()` and `reset()`. With `isRefusing` new connections are closed at once. */
export async function openTcpProxy(port, relay = forward) {
  const proxy = { count: 0, pairs: new Set(), isRefusing: false };
  const server = createServer({ noDelay: true }, (client) => {
    client.on("error", () => {});
    if (proxy.isRefusing) return client.destroy();
    proxy.count += 1;
    const upstream = connect({ port: typeof port === "function" ? port() : port, host: "127.0.0.1", noDelay: true });
    const pair = { number: proxy.count, client, upstream };
    const endBoth = (method) => () => {
      proxy.pairs.delete(pair);
      for (const socket of [client, upstream]) socket[method]();
    };
    pair.close = endBoth("destroy");
    pair.reset = endBoth("resetAndDestroy");
    proxy.pairs.add(pair);
    for (const [socket, other] of [[client, upstream], [upstream, client]]) {
      // `end` and not `destroy`: bytes that are still queued are delivered.
      socket.on("error", () => {}).on("close", () => (proxy.pairs.delete(pair), other.end()));
    }
    relay(pair);
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  proxy.url = `http://127.0.0.1:${server.address().port}`;
  proxy.disconnectAll = (how = "close") => [...proxy.pairs].forEach((pair) => pair[how]());
  proxy.close = () => (proxy.disconnectAll(), server.close());
  return proxy;
}

export function forward({ client, upstream }) {
  client.pipe(upstream);
  upstream.pipe(client);
}
