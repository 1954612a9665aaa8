// A listener as plain as it gets: it reads what a server sends and keeps the last place that it was given.
import { readFile } from "node:fs/promises";
import { pause, until } from "../support.mjs";

/** In place of a number: a message that counts for nothing, and says by its arrival that what comes now is heard. */
export const PROBE = "probe";

/** What the listeners of one subscriber got, over all its connections: it has `items`, a `place`, and was `told` of losses. */
export class Subscriber {
  items = [];
  /** The channels of which a probe came. */
  probed = new Set();
  place = undefined;
  /** The last message's epoch and offset, where there are such. */
  position = undefined;
  told = false;
  /** What the server answered in place of a stream. */
  refused = undefined;

  take({ item, place, position, told }) {
    if (item?.n === PROBE) this.probed.add(item.channel);
    else if (item !== undefined) this.items.push(item);
    if (place !== undefined) this.place = place;
    if (position) {
      // Offsets rise by one: who sees a jump knows what it means.
      const { epoch, offset } = this.position ?? {};
      if (epoch === position.epoch && position.offset > offset + 1) this.told = true;
      this.position = position;
    }
    if (told) this.told = true;
  }

  has(number, channel = this.items[0]?.channel) {
    return this.items.some((item) => item.n === number && item.channel === channel);
  }

  /** Until a message is there that must come. */
  async hears(number, channels = [undefined]) {
    await until(() => channels.every((channel) => this.has(number, channel)), () => `${number} of ${channels}`);
  }

  /** Until so many items are there, or nothing came for a while: for what may be lost. */
  async settle(count, patienceMs = 3000) {
    for (let end = Date.now() + patienceMs, before = 0; Date.now() < end && this.items.length < count; await pause(20)) {
      if (this.items.length > before) end = Date.now() + patienceMs;
      before = this.items.length;
    }
  }
}

/** Server-sent events until `close()` or the connection's end, which `ended` waits for. */
export async function readEvents(subscriber, url, headers, read) {
  const abort = new AbortController();
  const ask = () => fetch(url, { headers: { accept: "text/event-stream", ...headers }, signal: abort.signal });
  let response = await ask();
  for (let tries = 0; response.status === 503 && tries < 200; tries++) {
    await pause(250);
    response = await ask();
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    subscriber.refused = [response.status, problem.type?.split("/").pop()].filter(Boolean).join(" ");
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
        const event = Object.fromEntries(block.split("\n").map((line) => /^(\w*): ?(.*)$/.exec(line)?.slice(1) ?? ["", ""]));
        if (event.data !== undefined) subscriber.take(read(event));
        else if (event.id !== undefined) subscriber.take({ place: event.id });
      }
    }
  })().catch(() => {});
  return { close: () => (abort.abort(), ended), ended };
}

/** Frames of a WebSocket that is open. */
export async function readFrames(subscriber, socket, read) {
  socket.on("message", (data) => subscriber.take(read(data.toString())));
  await new Promise((done, failed) => socket.once("open", done).once("error", failed));
  return { close: () => new Promise((done) => (socket.once("close", done), socket.terminate())) };
}

/** Bytes that a process and its children hold, without the files that they are made of; what they
 * share counts for each that uses it. */
export async function memoryOf(pid) {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, "utf8");
  const all = await Promise.all(children.split(" ").filter(Boolean).map(memoryOf));
  const own = [...status.matchAll(/Rss(?:Anon|Shmem):\s*(\d+) kB/g)].map(([, kilobytes]) => kilobytes * 1024);
  return [...own, ...all].reduce((sum, bytes) => sum + bytes);
}
