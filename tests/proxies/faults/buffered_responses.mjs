// A proxy that holds an answer's body until it ends or there are 64 KiB of it, and then until the next 64 KiB.
import { listenHttp } from "../lib/http_proxy.mjs";

const HELD = 64 * 1024;

export const buffers = (port) => listenHttp(port, (from, to) => {
  let held = [], length = 0;
  const pass = () => {
    to.write(Buffer.concat(held));
    held = [];
    length = 0;
  };
  from.on("data", (chunk) => {
    held.push(chunk);
    length += chunk.length;
    if (length >= HELD) pass();
  });
  from.on("end", () => (pass(), to.end()));
});
