// A way on which, now and then, nothing arrives for a while and nobody is told. Then it goes on: the first time as if
// nothing had been, the next time without any memory of the connections.
import { join, listenTcp } from "../lib/tcp_proxy.mjs";

export async function blackHole(port, { everyMs, forMs }) {
  let isOpen = true;
  const hold = ({ client, upstream }) => {
    for (const [from, to] of [[client, upstream], [upstream, client]]) {
      from.unpipe(to);
      from.pause();
    }
  };
  const box = await listenTcp(port, (pair) => (isOpen ? join(pair) : hold(pair)));
  box.holes = 0;
  const timer = setInterval(() => {
    isOpen = false;
    box.holes += 1;
    box.pairs.forEach(hold);
    setTimeout(() => {
      isOpen = true;
      if (box.holes % 2) box.pairs.forEach(join);
      else box.cut("reset");
    }, forMs);
  }, everyMs + forMs);
  const { close } = box;
  box.close = () => (clearInterval(timer), close());
  return box;
}
