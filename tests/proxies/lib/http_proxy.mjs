// What the boxes that take HTTP apart have in common. Like most of them they drop what is between two hops only, so no
// upgrade comes through.
import { createServer, request } from "node:http";

const HOP_BY_HOP = ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/** Forwards each request; `answer(from, to)` carries the body of the gateway's answer to the client. */
export async function listenHttp(port, answer = (from, to) => from.pipe(to)) {
  const box = { count: 0 };
  const server = createServer((from, to) => {
    box.count += 1;
    const upstream = request({ port, host: "127.0.0.1", method: from.method, path: from.url, headers: endToEnd(from.headers) });
    upstream.on("error", () => to.destroy());
    upstream.on("response", (response) => {
      to.writeHead(response.statusCode, endToEnd(response.headers));
      to.flushHeaders();
      response.on("error", () => to.destroy());
      answer(response, to);
    });
    to.on("close", () => upstream.destroy());
    from.pipe(upstream);
  });
  // Without a listener for `upgrade` such a request is one like any other.
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  box.url = `http://127.0.0.1:${server.address().port}`;
  box.close = () => (server.closeAllConnections(), server.close());
  return box;
}

const endToEnd = (headers) => Object.fromEntries(Object.entries(headers).filter(([name]) => !HOP_BY_HOP.includes(name)));
