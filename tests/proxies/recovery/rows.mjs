// The rows of the table: what happens to a subscriber, written once for every server. A row gives what was measured.
import { cutsMidway } from "../faults/reset_mid_transfer.mjs";
import { stalls } from "../faults/stalled_reader.mjs";
import { pause, range, until } from "../support.mjs";
import { PROBE, Subscriber } from "./stream.mjs";

const C = "c";
const LARGE = "x".repeat(8000);

async function publish(server, from, to, channel = C, text) {
  for (let n = from; n <= to; n++) await server.publish(channel, n, text);
}

/** Until what is published reaches the subscriber. Who is answered may not be listening yet. */
async function isHeard(server, subscriber, channels = [C]) {
  subscriber.probed.clear();
  await until(async () => {
    const silent = channels.filter((channel) => !subscriber.probed.has(channel));
    for (const channel of silent) await server.publish(channel, PROBE);
    await pause(50);
    return !silent.length;
  }, "a probe");
}

/** Until something is so that with some servers never is. */
async function soonOrNever(isSo) {
  for (let began = Date.now(); !isSo() && Date.now() - began < 10_000; await pause(20));
}

/** Listens, and got messages 1 to `last`. */
async function listening(server, last, options) {
  const subscriber = new Subscriber();
  const stream = await server.events(subscriber, [C], options);
  await isHeard(server, subscriber);
  await publish(server, 1, last);
  await subscriber.hears(last);
  return { subscriber, stream };
}

/** Listens, gets messages 1 to 5 and is gone. */
async function gotFive(server) {
  const { subscriber, stream } = await listening(server, 5);
  await stream.close();
  return subscriber;
}

/** Comes back to where it was and gets what there is, and one that is published then: with that everything before it has
 * come that will. `expected` is how many there are if nothing is missing. */
async function comesBack(server, subscriber, { last, expected = last }) {
  const stream = await server.events(subscriber, [C]);
  if (subscriber.refused) return verdict(subscriber, range(1, last));
  await subscriber.settle(expected - 1);
  await isHeard(server, subscriber);
  await publish(server, last, last);
  await subscriber.hears(last);
  await stream.close();
  return verdict(subscriber, range(1, last));
}

/** How what arrived differs from what should have, and whether that was told. */
export function verdict({ items, told, refused }, expected) {
  if (refused) return `reported: ${refused}`;
  const got = items.map(({ n }) => n);
  const lost = expected.filter((n) => !got.includes(n)).length;
  const again = got.length - new Set(got).size;
  const isOrdered = got.every((n, at) => at === 0 || n > got[at - 1]);
  const faults = [];
  if (lost) faults.push(`${lost} of ${expected.length} lost`);
  if (again) faults.push(`${again} repeated`);
  if (!again && !isOrdered) faults.push("out of order");
  if (faults.length) return `${faults.join(", ")}: ${told ? "reported" : "**not reported**"}`;
  return told ? "each once, in order, though a loss is reported" : "each once, in order";
}

/** Gets five messages, reads nothing while 24 MB pass, reads on, and comes back if it was cut for that. `memory` words
 * how much the server grew meanwhile. */
async function readsNothing(start, options, memory) {
  const server = await start(options);
  const { subscriber, stream, box } = await stalled(server);
  const before = await server.memory();
  await server.publishMany(C, 6, 3000, LARGE);
  const grown = (await server.memory()) - before;
  box.goOn();
  await Promise.race([stream.ended, subscriber.settle(3000, 10_000)]);
  await stream.close();
  box.close();
  const outcome = await comesBack(server, subscriber, { last: 3001 });
  // How many depends on what the system's own buffers took.
  return memory ? `${outcome.replace(/^\d+ of \d+/, "some")}; ${memory(grown)}` : outcome;
}

async function stalled(server) {
  const box = await stalls(server.port());
  const { subscriber, stream } = await listening(server, 5, { url: box.url });
  box.stall();
  return { subscriber, stream, box };
}

export const rows = [
  {
    name: "Reconnects while the backlog holds all it missed",
    async run(start) {
      const server = await start();
      const subscriber = await gotFive(server);
      await publish(server, 6, 15);
      return comesBack(server, subscriber, { last: 16 });
    },
  },
  {
    name: "Cut 20 times while 400 messages pass, reconnects each time",
    async run(start) {
      const server = await start({ kept: 2000 });
      const box = await cutsMidway(server.port());
      const subscriber = new Subscriber();
      let isOver = false, stream = await server.events(subscriber, [C], { url: box.url });
      await isHeard(server, subscriber);
      const reading = (async () => {
        while (!isOver) {
          await stream.ended;
          if (!isOver) stream = await server.events(subscriber, [C], { url: box.url }).catch(() => ({ close() {}, ended: pause(20) }));
        }
      })();
      for (let n = 1; n <= 400; n++) {
        if (n % 20 === 10) box.armed += 1;
        await server.publish(C, n);
      }
      await subscriber.hears(400);
      isOver = true;
      await stream.close();
      await reading;
      box.close();
      return verdict(subscriber, range(1, 400));
    },
  },
  {
    name: "Cut in the middle of a 50 kB message",
    async run(start) {
      const server = await start();
      const box = await cutsMidway(server.port());
      const { subscriber, stream } = await listening(server, 4, { url: box.url });
      box.armed = 1;
      await publish(server, 5, 5, C, "x".repeat(50_000));
      await stream.ended;
      box.close();
      return comesBack(server, subscriber, { last: 6 });
    },
  },
  {
    name: "Cut before the first message arrives",
    async run(start) {
      const server = await start();
      await publish(server, -5, -1);
      const subscriber = new Subscriber();
      const stream = await server.events(subscriber, [C]);
      await soonOrNever(() => subscriber.place);
      await stream.close();
      await publish(server, 1, 5);
      return comesBack(server, subscriber, { last: 6 });
    },
  },
  {
    name: "Reconnects after missing 40 messages, of which the backlog holds 20",
    async run(start) {
      const server = await start({ kept: 20 });
      const subscriber = await gotFive(server);
      await publish(server, 6, 45);
      return comesBack(server, subscriber, { last: 46, expected: 26 });
    },
  },
  {
    name: "Reconnects after the missed messages expired (5 s)",
    async run(start) {
      const server = await start({ secs: 5 });
      const subscriber = await gotFive(server);
      await publish(server, 6, 10);
      await pause(7500);
      // These are young enough for as long as that takes.
      await publish(server, 11, 12);
      return comesBack(server, subscriber, { last: 13, expected: 8 });
    },
  },
  {
    name: "Resumes from a position in the future (restored backup, clock set back)",
    async run(start) {
      const server = await start();
      const subscriber = await gotFive(server);
      const stream = await server.eventsAhead(subscriber, C);
      await pause(300);
      await publish(server, 6, 10);
      await soonOrNever(() => subscriber.has(10));
      await stream.close();
      return verdict(subscriber, range(1, 10));
    },
  },
  {
    name: "Resumes from a malformed position",
    async run(start) {
      const server = await start();
      const subscriber = await gotFive(server);
      await publish(server, 6, 10);
      subscriber.place = "sense-none";
      return comesBack(server, subscriber, { last: 11 });
    },
  },
  {
    name: "Server restart, storage in memory; messages before and after",
    async run(start) {
      const server = await start();
      const subscriber = await gotFive(server);
      await publish(server, 6, 10);
      await server.restart();
      await pause(1500);
      await publish(server, 11, 15);
      return comesBack(server, subscriber, { last: 16, expected: 11 });
    },
  },
  {
    name: "Server reloads its configuration",
    async run(start) {
      const server = await start();
      const subscriber = await gotFive(server);
      await publish(server, 6, 10);
      await server.reload();
      await pause(1500);
      await publish(server, 11, 15);
      return comesBack(server, subscriber, { last: 16 });
    },
  },
  {
    name: "`kill -9` of the server, storage on disk (nchan: in a Redis that keeps running)",
    async run(start, { durable }) {
      const server = await start({ storage: durable });
      const subscriber = await gotFive(server);
      await publish(server, 6, 10);
      await server.restart("SIGKILL");
      await publish(server, 11, 15);
      return comesBack(server, subscriber, { last: 16 });
    },
  },
  {
    name: "Reconnects to another node, storage in memory, that received the same messages slightly earlier",
    async run(start) {
      const server = await start(), other = await start();
      await publish(other, 1, 10);
      await pause(1500);
      const subscriber = await gotFive(server);
      await pause(1500);
      return comesBack(other, subscriber, { last: 11 });
    },
  },
  {
    name: "Reconnects to another node, shared storage (Redis)",
    async run(start, { shared }) {
      if (!shared) return "not in this version";
      const server = await start({ storage: shared }), other = await start({ storage: shared });
      const subscriber = await gotFive(server);
      await publish(server, 6, 10);
      return comesBack(other, subscriber, { last: 11 });
    },
  },
  {
    name: "Changes from server-sent events to a WebSocket, then to polls",
    async run(start) {
      const server = await start();
      const subscriber = await gotFive(server);
      await publish(server, 6, 8);
      const socket = await server.socket(subscriber, C);
      await subscriber.hears(8);
      await publish(server, 9, 10);
      await subscriber.hears(10);
      await socket.close();
      await publish(server, 11, 13);
      await until(async () => (await server.poll(subscriber, C), subscriber.has(13)), "the polls");
      // What should not come.
      await server.poll(subscriber, C);
      return verdict(subscriber, range(1, 13));
    },
  },
  {
    name: "Stops reading while 24 MB pass, then continues; the backlog holds all of it",
    run: (start) => readsNothing(start, { kept: 5000 }),
  },
  {
    name: "The same, the backlog holds the newest 20",
    run: (start) => readsNothing(start, {}, (grown) => (grown > 26e6 ? "its memory grows with the unread data" : "its memory is bounded")),
  },
  {
    name: "Publications while one subscriber leaves 24 MB unread and the server may keep 8 MB",
    async run(start) {
      const server = await start({ room: 8 << 20 });
      const { stream, box } = await stalled(server);
      // Which 5xx it is depends on what filled up first.
      const outcome = await server.publishMany(C, 6, 3000, LARGE).then(() => "accepted", () => "**refused**");
      await stream.close();
      box.close();
      return outcome;
    },
  },
  {
    name: "50 channels on one connection, one position for all of them",
    async run(start) {
      const server = await start();
      const channels = range(1, 50).map((n) => `c${n}`);
      const subscriber = new Subscriber();
      const stream = await server.events(subscriber, channels);
      await isHeard(server, subscriber, channels);
      for (const channel of channels) await publish(server, 1, 2, channel);
      await subscriber.hears(2, channels);
      await stream.close();
      for (const channel of channels) await publish(server, 3, 5, channel);
      const again = await server.events(subscriber, channels);
      await subscriber.hears(5, channels);
      await again.close();
      const all = channels.map((channel) => {
        const items = subscriber.items.filter((item) => item.channel === channel);
        return verdict({ ...subscriber, items }, range(1, 5));
      });
      const kinds = [...new Set(all)];
      return kinds.map((kind) => (kinds.length > 1 ? `${all.filter((one) => one === kind).length} channels: ${kind}` : kind)).join("; ");
    },
  },
  {
    name: "A publisher retries a message because the response was lost",
    async run(start) {
      const server = await start();
      const subscriber = await gotFive(server);
      await server.publishTwice(C, 6);
      return comesBack(server, subscriber, { last: 7 });
    },
  },
];
