// A minimal subscriber: reads the server's messages and keeps the last cursor, without a client library.
import { readFile } from "node:fs/promises";
import { sleep, waitFor } from "../support.mjs";

/** In place of a number: a message whose arrival shows that the subscription is live. It does not count. */
export const PROBE = "probe";

/** The messages of one subscriber over all its connections. */
export class Subscriber {
  messages = [];
  /** Channels whose probe has arrived. */
  probed = new Set();
  /** The server's resume token, as the server encodes it. */
  cursor = undefined;
  /** Epoch and offset of the last message, if the server has such. */
  position = undefined;
  isLossReported = false;
  /** Status and problem if the server refused the request. */
  refusal = undefined;

  accept({ message, cursor, position, isLossReported }) {
    if (message?.n === PROBE) this.probed.add(message.channel);
    else if (message !== undefined) this.messages.push(message);
    if (cursor !== undefined) this.cursor = cursor;
    if (position) {
      // Offsets rise by one, so a jump reports a loss.
      const { epoch, offset } = this.position ?? {};
      if (epoch === position.epoch && position.offset > offset + 1) this.isLossReported = true;
      this.position = position;
    }
    if (isLossReported) this.isLossReported = true;
  }

  has(number, channel = this.messages[0]?.channel) {
    return this.messages.some((message) => message.n === number && message.channel === channel);
  }

  async waitForMessage(number, channels = [undefined]) {
    const isComplete = () => channels.every((channel) => this.has(number, channel));
    await waitFor(isComplete, () => `${number} of ${channels}`);
  }

  /** Waits for messages that may be lost: until there are `count`, or none arrived for `quietMs`. */
  async settle(count, quietMs = 3000) {
    let end = Date.now() + quietMs, before = 0;
    while (Date.now() < end && this.messages.length < count) {
      if (this.messages.length > before) end = Date.now() + quietMs;
      before = this.messages.length;
      await sleep(20);
    }
  }
}

/** Reads server-sent events until `close()` or the end of the connection. `ended` resolves then. */
export async function readEvents(subscriber, url, headers, read) {
  const abort = new AbortController();
  const request = () => fetch(url, { headers: { accept: "text/event-stream", ...headers }, signal: abort.signal });
  let response = await request();
  for (let tries = 0; response.status === 503 && tries < 200; tries++) {
    await sleep(250);
    response = await request();
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    subscriber.refusal = [response.status, problem.type?.split("/").pop()].filter(Boolean).join(" ");
    return { close() {}, ended: Promise.resolve() };
  }
  const ended = (async () => {
    let text = "";
    const decoder = new TextDecoder();
    for await (const chunk of response.body) {
      text += decoder.decode(chunk, { stream: true });
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const fields = block.split("\n").map((line) => /^(\w*): ?(.*)$/.exec(line)?.slice(1) ?? ["", ""]);
        const event = Object.fromEntries(fields);
        if (event.data !== undefined) subscriber.accept(read(event));
        else if (event.id !== undefined) subscriber.accept({ cursor: event.id });
      }
    }
  })().catch(() => {});
  return { close: () => (abort.abort(), ended), ended };
}

/** Reads the frames of a WebSocket. */
export async function readFrames(subscriber, socket, read) {
  socket.on("message", (data) => subscriber.accept(read(data.toString())));
  await new Promise((done, failed) => socket.once("open", done).once("error", failed));
  return { close: () => new Promise((done) => (socket.once("close", done), socket.terminate())) };
}

/** Resident memory of a process and its children in bytes, without mapped files. Shared memory counts once for each
 * process. */
export async function memoryOf(pid) {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, "utf8");
  const all = await Promise.all(children.split(" ").filter(Boolean).map(memoryOf));
  const own = [...status.matchAll(/Rss(?:Anon|Shmem):\s*(\d+) kB/g)].map(([, kilobytes]) => kilobytes * 1024);
  return [...own, ...all].reduce((sum, bytes) => sum + bytes);
}
