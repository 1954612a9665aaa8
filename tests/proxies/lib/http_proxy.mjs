// An HTTP proxy that removes hop-by-hop headers, as most proxies do: no upgrade passes it.
import { createServer, request } from "node:http";

const HOP_BY_HOP = ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/** Forwards requests to a port. `relayBody(from, to)` replaces plain forwarding of response bodies. */
export async function openHttpProxy(port, relayBody = (from, to) => from.pipe(to)) {
  const proxy = { count: 0 };
  const server = createServer((from, to) => {
    proxy.count += 1;
    const { method, url: path } = from;
    const upstream = request({ port, host: "127.0.0.1", method, path, headers: endToEnd(from.headers) });
    upstream.on("error", () => to.destroy());
    upstream.on("response", (response) => {
      to.writeHead(response.statusCode, endToEnd(response.headers));
      to.flushHeaders();
      response.on("error", () => to.destroy());
      relayBody(response, to);
    });
    to.on("close", () => upstream.destroy());
    from.pipe(upstream);
  });
  // Without an `upgrade` listener Node handles upgrade requests as plain requests.
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  proxy.url = `http://127.0.0.1:${server.address().port}`;
  proxy.close = () => (server.closeAllConnections(), server.close());
  return proxy;
}

function endToEnd(headers) {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !HOP_BY_HOP.includes(name)));
}
