// A TCP proxy that cuts connections, and takes none while it is `isAway`.
import { connect, createServer } from "node:net";

export class Proxy {
  /** To a port, or to what `port()` gives at the time. */
  static async start(port) {
    const proxy = new Proxy();
    proxy.pairs = new Set();
    proxy.count = 0;
    proxy.isAway = false;
    proxy.server = createServer((client) => {
      if (proxy.isAway) return client.on("error", () => {}).destroy();
      const upstream = connect(typeof port === "function" ? port() : port, "127.0.0.1");
      const pair = [client, upstream];
      proxy.pairs.add(pair);
      proxy.count += 1;
      for (const socket of pair) {
        socket.on("error", () => {});
        socket.on("close", () => {
          proxy.pairs.delete(pair);
          pair.forEach((other) => other.destroy());
        });
      }
      client.pipe(upstream);
      upstream.pipe(client);
    });
    await new Promise((ready) => proxy.server.listen(0, "127.0.0.1", ready));
    proxy.url = `http://127.0.0.1:${proxy.server.address().port}`;
    return proxy;
  }

  cut() {
    for (const pair of this.pairs) pair.forEach((socket) => socket.destroy());
  }

  close() {
    this.cut();
    this.server.close();
  }
}
