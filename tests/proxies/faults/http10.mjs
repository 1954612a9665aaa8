// A proxy of the last century: HTTP/1.0 to both sides, so no chunks, no connection that is kept, no upgrade. Where an
// answer ends only the end of its connection tells.
import { listenTcp } from "../lib/tcp_proxy.mjs";

const HEAD_END = "\r\n\r\n";
const DROPPED = /^(connection|keep-alive|upgrade|transfer-encoding|sec-websocket-[a-z]+):/i;

export const http10 = (port) => listenTcp(port, ({ client, upstream, close }) => {
  onHead(client, (head, rest) => {
    const [line, ...headers] = head.split("\r\n");
    const isUpgrade = headers.some((header) => /^upgrade:/i.test(header));
    if (isUpgrade) return client.end(`HTTP/1.0 501 Not Implemented\r\nContent-Length: 0${HEAD_END}`, close);
    upstream.write(headOf(line.replace(/HTTP\/1\.1$/, "HTTP/1.0"), headers));
    upstream.write(rest);
    client.pipe(upstream);
  });
  onHead(upstream, (head, rest) => {
    const [line, ...headers] = head.split("\r\n");
    client.write(headOf(line.replace(/^HTTP\/1\.1/, "HTTP/1.0"), headers));
    client.write(rest);
    upstream.pipe(client);
  });
});

const headOf = (line, headers) =>
  [line, ...headers.filter((header) => !DROPPED.test(header)), "Connection: close"].join("\r\n") + HEAD_END;

/** The head of the first message, and what came with it. */
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
