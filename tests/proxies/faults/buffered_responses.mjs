// A proxy that buffers a response body until it ends, in blocks of 64 KiB.
import { openHttpProxy } from "../lib/http_proxy.mjs";

const BUFFER_BYTES = 64 * 1024;

export const bufferResponses = (port) => openHttpProxy(port, (from, to) => {
  let chunks = [], length = 0;
  const flush = () => {
    to.write(Buffer.concat(chunks));
    chunks = [];
    length = 0;
  };
  from.on("data", (chunk) => {
    chunks.push(chunk);
    length += chunk.length;
    if (length >= BUFFER_BYTES) flush();
  });
  from.on("end", () => (flush(), to.end()));
});
