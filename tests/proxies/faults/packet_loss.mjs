// A network that drops all packets for `forMs`, repeatedly. Connections alternately continue or are reset afterwards.
import { forward, openTcpProxy } from "../../../clients/js/tests/support/tcp_proxy.mjs";

export async function dropPackets(port, { everyMs, forMs }) {
  let isOpen = true;
  const stop = ({ client, upstream }) => {
    for (const [from, to] of [[client, upstream], [upstream, client]]) {
      from.unpipe(to);
      from.pause();
    }
  };
  const proxy = await openTcpProxy(port, (pair) => (isOpen ? forward(pair) : stop(pair)));
  proxy.outages = 0;
  const timer = setInterval(() => {
    isOpen = false;
    proxy.outages += 1;
    proxy.pairs.forEach(stop);
    setTimeout(() => {
      isOpen = true;
      if (proxy.outages % 2) proxy.pairs.forEach(forward);
      else proxy.disconnectAll("reset");
    }, forMs);
  }, everyMs + forMs);
  const { close } = proxy;
  proxy.close = () => (clearInterval(timer), close());
  return proxy;
}
