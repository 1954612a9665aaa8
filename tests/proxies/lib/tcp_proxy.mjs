// What the boxes that do not look into HTTP have in common: a port that forwards to the gateway's.
import { connect, createServer } from "node:net";

/** Forwards with pipes, or as `link(pair)` does it; a pair has `client`, `upstream`, `close()` and `reset()`. */
export async function listenTcp(port, link = join) {
  const box = { count: 0, pairs: new Set() };
  const server = createServer({ noDelay: true }, (client) => {
    box.count += 1;
    const upstream = connect({ port, host: "127.0.0.1", noDelay: true });
    const pair = { number: box.count, client, upstream };
    const both = (how) => () => {
      box.pairs.delete(pair);
      for (const socket of [client, upstream]) socket[how]();
    };
    pair.close = both("destroy");
    pair.reset = both("resetAndDestroy");
    box.pairs.add(pair);
    for (const [socket, other] of [[client, upstream], [upstream, client]]) {
      // What is on its way still arrives.
      socket.on("error", () => {}).on("close", () => (box.pairs.delete(pair), other.end()));
    }
    link(pair);
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  box.url = `http://127.0.0.1:${server.address().port}`;
  box.cut = (how = "close") => [...box.pairs].forEach((pair) => pair[how]());
  box.close = () => (box.cut(), server.close());
  return box;
}

export function join({ client, upstream }) {
  client.pipe(upstream);
  upstream.pipe(client);
}
