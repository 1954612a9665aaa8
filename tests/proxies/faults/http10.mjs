// A proxy that speaks HTTP/1.0 on both sides: no chunks, keep-alive or upgrade. A response ends with its connection.
import { openTcpProxy } from "../../../clients/js/tests/support/tcp_proxy.mjs";

const HEAD_END = "\r\n\r\n";
const REMOVED_HEADERS = /^(connection|keep-alive|upgrade|transfer-encoding|sec-websocket-[a-z]+):/i;

export const http10 = (port) => openTcpProxy(port, ({ client, upstream, close }) => {
  onHead(client, (head, rest) => {
    const [line, ...headers] = head.split("\r\n");
    const isUpgrade = headers.some((header) => /^upgrade:/i.test(header));
    if (isUpgrade) return client.end(`HTTP/1.0 501 Not Implemented\r\nContent-Length: 0${HEAD_END}`, close);
    upstream.write(rewriteHead(line.replace(/HTTP\/1\.1$/, "HTTP/1.0"), headers));
    upstream.write(rest);
    client.pipe(upstream);
  });
  onHead(upstream, (head, rest) => {
    const [line, ...headers] = head.split("\r\n");
    client.write(rewriteHead(line.replace(/^HTTP\/1\.1/, "HTTP/1.0"), headers));
    client.write(rest);
    upstream.pipe(client);
  });
});

function rewriteHead(line, headers) {
  const kept = headers.filter((header) => !REMOVED_HEADERS.test(header));
  return [line, ...kept, "Connection: close"].join("\r\n") + HEAD_END;
}

/** Calls `then` with the head of the first message and the bytes that follow it. */
function onHead(socket, then) {
  let text = "";
  socket.on("data", function read(chunk) {
    text += chunk.toString("latin1");
    const end = text.indexOf(HEAD_END);
    if (end < 0) return;
    socket.off("data", read);
    then(text.slice(0, end), Buffer.from(text.slice(end + HEAD_END.length), "latin1"));
  });
}
