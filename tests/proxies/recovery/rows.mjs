// The rows of the table in docs/recovery.md. Each `run` performs a scenario on one server and returns the outcome.
import { cutMidTransfer } from "../faults/reset_mid_transfer.mjs";
import { range, sleep, waitFor } from "../support.mjs";
import {
  CHANNEL, describeOutcome, LARGE_TEXT, publish, receiveFive, reconnect, stallAndReconnect, startStalled,
  startSubscriber, waitBriefly, waitUntilLive,
} from "./scenario.mjs";
import { Subscriber } from "./stream.mjs";

export const rows = [
  {
    name: "Reconnects while the backlog holds all it missed",
    async run(start) {
      const server = await start();
      const subscriber = await receiveFive(server);
      await publish(server, 6, 15);
      return reconnect(server, subscriber, { last: 16 });
    },
  },
  {
    name: "Cut 20 times while 400 messages pass, reconnects each time",
    async run(start) {
      const server = await start({ backlog: 2000 });
      const proxy = await cutMidTransfer(server.port());
      const subscriber = new Subscriber();
      const connect = () => server.events(subscriber, [CHANNEL], { url: proxy.url });
      let isDone = false, stream = await connect();
      await waitUntilLive(server, subscriber);
      const reading = (async () => {
        while (!isDone) {
          await stream.ended;
          if (!isDone) stream = await connect().catch(() => ({ close() {}, ended: sleep(20) }));
        }
      })();
      for (let n = 1; n <= 400; n++) {
        if (n % 20 === 10) proxy.armed += 1;
        await server.publish(CHANNEL, n);
      }
      await subscriber.waitForMessage(400);
      isDone = true;
      await stream.close();
      await reading;
      proxy.close();
      return describeOutcome(subscriber, range(1, 400));
    },
  },
  {
    name: "Cut in the middle of a 50 kB message",
    async run(start) {
      const server = await start();
      const proxy = await cutMidTransfer(server.port());
      const { subscriber, stream } = await startSubscriber(server, 4, { url: proxy.url });
      proxy.armed = 1;
      await publish(server, 5, 5, CHANNEL, "x".repeat(50_000));
      await stream.ended;
      proxy.close();
      return reconnect(server, subscriber, { last: 6 });
    },
  },
  {
    name: "Cut before the first message arrives",
    async run(start) {
      const server = await start();
      await publish(server, -5, -1);
      const subscriber = new Subscriber();
      const stream = await server.events(subscriber, [CHANNEL]);
      await waitBriefly(() => subscriber.cursor);
      await stream.close();
      await publish(server, 1, 5);
      return reconnect(server, subscriber, { last: 6 });
    },
  },
  {
    name: "Reconnects after missing 40 messages, of which the backlog holds 20",
    async run(start) {
      const server = await start({ backlog: 20 });
      const subscriber = await receiveFive(server);
      await publish(server, 6, 45);
      return reconnect(server, subscriber, { last: 46, expected: 26 });
    },
  },
  {
    name: "Reconnects after the missed messages expired (5 s)",
    async run(start) {
      const server = await start({ backlogSecs: 5 });
      const subscriber = await receiveFive(server);
      await publish(server, 6, 10);
      await sleep(7500);
      // These are young enough for as long as that takes.
      await publish(server, 11, 12);
      return reconnect(server, subscriber, { last: 13, expected: 8 });
    },
  },
  {
    name: "Resumes from a position in the future (restored backup, clock set back)",
    async run(start) {
      const server = await start();
      const subscriber = await receiveFive(server);
      const stream = await server.eventsAhead(subscriber, CHANNEL);
      await sleep(300);
      await publish(server, 6, 10);
      await waitBriefly(() => subscriber.has(10));
      await stream.close();
      return describeOutcome(subscriber, range(1, 10));
    },
  },
  {
    name: "Resumes from a malformed position",
    async run(start) {
      const server = await start();
      const subscriber = await receiveFive(server);
      await publish(server, 6, 10);
      subscriber.cursor = "sense-none";
      return reconnect(server, subscriber, { last: 11 });
    },
  },
  {
    name: "Server restart, storage in memory; messages before and after",
    async run(start) {
      const server = await start();
      const subscriber = await receiveFive(server);
      await publish(server, 6, 10);
      await server.restart();
      await sleep(1500);
      await publish(server, 11, 15);
      return reconnect(server, subscriber, { last: 16, expected: 11 });
    },
  },
  {
    name: "Server reloads its configuration",
    async run(start) {
      const server = await start();
      const subscriber = await receiveFive(server);
      await publish(server, 6, 10);
      await server.reload();
      await sleep(1500);
      await publish(server, 11, 15);
      return reconnect(server, subscriber, { last: 16 });
    },
  },
  {
    name: "`kill -9` of the server, storage on disk (nchan: in a Redis that keeps running)",
    async run(start, { durable }) {
      const server = await start({ storage: durable });
      const subscriber = await receiveFive(server);
      await publish(server, 6, 10);
      await server.restart("SIGKILL");
      await publish(server, 11, 15);
      return reconnect(server, subscriber, { last: 16 });
    },
  },
  {
    name: "Reconnects to another node, storage in memory, that received the same messages slightly earlier",
    async run(start) {
      const server = await start(), other = await start();
      await publish(other, 1, 10);
      await sleep(1500);
      const subscriber = await receiveFive(server);
      await sleep(1500);
      return reconnect(other, subscriber, { last: 11 });
    },
  },
  {
    name: "Reconnects to another node, shared storage (Redis)",
    async run(start, { shared }) {
      if (!shared) return "not in this version";
      const server = await start({ storage: shared }), other = await start({ storage: shared });
      const subscriber = await receiveFive(server);
      await publish(server, 6, 10);
      return reconnect(other, subscriber, { last: 11 });
    },
  },
  {
    name: "Changes from server-sent events to a WebSocket, then to polls",
    async run(start) {
      const server = await start();
      const subscriber = await receiveFive(server);
      await publish(server, 6, 8);
      const socket = await server.socket(subscriber, CHANNEL);
      await subscriber.waitForMessage(8);
      await publish(server, 9, 10);
      await subscriber.waitForMessage(10);
      await socket.close();
      await publish(server, 11, 13);
      await waitFor(async () => (await server.poll(subscriber, CHANNEL), subscriber.has(13)), "the polls");
      // One more poll, which must not repeat a message.
      await server.poll(subscriber, CHANNEL);
      return describeOutcome(subscriber, range(1, 13));
    },
  },
  {
    name: "Stops reading while 24 MB pass, then continues; the backlog holds all of it",
    run: (start) => stallAndReconnect(start, { backlog: 5000 }),
  },
  {
    name: "The same, the backlog holds the newest 20",
    run: (start) => stallAndReconnect(start, {}, (growth) => {
      return growth > 26e6 ? "its memory grows with the unread data" : "its memory is bounded";
    }),
  },
  {
    name: "Publications while one subscriber leaves 24 MB unread and the server may keep 8 MB",
    async run(start) {
      const server = await start({ memoryBytes: 8 << 20 });
      const { stream, proxy } = await startStalled(server);
      // The 5xx status depends on which limit is reached first.
      const publishing = server.publishMany(CHANNEL, 6, 3000, LARGE_TEXT);
      const outcome = await publishing.then(() => "accepted", () => "**refused**");
      await stream.close();
      proxy.close();
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
      await waitUntilLive(server, subscriber, channels);
      for (const channel of channels) await publish(server, 1, 2, channel);
      await subscriber.waitForMessage(2, channels);
      await stream.close();
      for (const channel of channels) await publish(server, 3, 5, channel);
      const again = await server.events(subscriber, channels);
      await subscriber.waitForMessage(5, channels);
      await again.close();
      const outcomes = channels.map((channel) => {
        const messages = subscriber.messages.filter((message) => message.channel === channel);
        return describeOutcome({ ...subscriber, messages }, range(1, 5));
      });
      const kinds = [...new Set(outcomes)];
      if (kinds.length === 1) return kinds[0];
      const count = (kind) => outcomes.filter((outcome) => outcome === kind).length;
      return kinds.map((kind) => `${count(kind)} channels: ${kind}`).join("; ");
    },
  },
  {
    name: "A publisher retries a message because the response was lost",
    async run(start) {
      const server = await start();
      const subscriber = await receiveFive(server);
      await server.publishTwice(CHANNEL, 6);
      return reconnect(server, subscriber, { last: 7 });
    },
  },
];
