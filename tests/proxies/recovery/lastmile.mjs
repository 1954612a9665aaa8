// The gateway as a server of the table, used without its client library.
import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Gateway, range, waitFor, WebSocket } from "../support.mjs";
import { memoryOf, readEvents, readFrames } from "./stream.mjs";

export async function startLastmile({
  backlog = 20, backlogSecs = 300, storage = "memory", redis, memoryBytes = 256 << 20,
} = {}) {
  const folder = await mkdtemp(join(tmpdir(), "lastmile-recovery-"));
  const engine = {
    memory: "",
    disk: `[engine]\nkind = "disk"\npath = "${folder}/store"\n`,
    redis: `[engine]\nkind = "redis"\nurl = "${redis}"\n`,
  };
  const gateway = await Gateway.start({
    ...(storage === "redis" && { egress: "" }),
    channels: `subscribers = "anyone"\nbacklog_messages = ${backlog}\nbacklog_secs = ${backlogSecs}\nbacklog_bytes = 0`,
    more: `[limits]\nmax_backlog_bytes = ${memoryBytes}\n${engine[storage]}`,
  });
  const query = (channels) => channels.map((channel) => `channel=${channel}`).join("&");
  return {
    publish: (channel, n, text = "") => gateway.publish(channel, { channel, n, text }),
    async publishMany(channel, from, to, text) {
      for (let n = from; n <= to; n += 50) {
        await gateway.publishBatch(channel, range(n, Math.min(to, n + 49)).map((n) => ({ channel, n, text })));
      }
    },
    port: () => gateway.port,
    /** A retry, as after a lost response. */
    async publishTwice(channel, n) {
      const key = randomUUID();
      const headers = { "idempotency-key": key };
      for (let tries = 0; tries < 2; tries++) await gateway.publish(channel, { channel, n }, undefined, headers);
    },
    events(subscriber, channels, { url = gateway.url } = {}) {
      const { cursor } = subscriber;
      const headers = cursor === undefined ? {} : { "last-event-id": cursor };
      return readEvents(subscriber, `${url}/v1/events?${query(channels)}`, headers, readEvent(subscriber));
    },
    async socket(subscriber, channel) {
      const socket = new WebSocket(`${gateway.url.replace("http", "ws")}/v1/subscribe`, "lastmile.v1");
      // A WebSocket resumes by epoch and offset, and so do the polls after it.
      subscriber.cursor = undefined;
      const stream = await readFrames(subscriber, socket, (text) => read(JSON.parse(text), true));
      socket.send(JSON.stringify({ type: "subscribe", id: "1", channel, since: subscriber.position }));
      return stream;
    },
    async poll(subscriber, channel) {
      const { cursor, position } = subscriber;
      const from = cursor ? `&cursor=${cursor}` : `&since=${position.epoch}-${position.offset}`;
      const response = await fetch(`${gateway.url}/v1/poll?channel=${channel}${from}&wait=1`);
      const { subscribed = [], messages, cursor: next } = await response.json();
      for (const frame of [...subscribed, ...messages]) subscriber.accept(read(frame, true));
      subscriber.accept({ cursor: next });
    },
    /** Resumes from an offset that the channel has not reached. */
    eventsAhead(subscriber, channel) {
      const since = `${subscriber.position.epoch}-${subscriber.position.offset + 1000}`;
      const url = `${gateway.url}/v1/events?channel=${channel}&since=${since}`;
      return readEvents(subscriber, url, {}, readEvent(subscriber));
    },
    restart: async (signal = "SIGTERM") => (await gateway.stop(signal), gateway.run()),
    async reload() {
      gateway.process.kill("SIGHUP");
      await waitFor(() => gateway.log.some((line) => /"reloaded"/.test(line)), "the reload");
    },
    memory: () => memoryOf(gateway.process.pid),
    close: async () => (await gateway.close(), rm(folder, { recursive: true, force: true })),
  };
}

function readEvent({ cursor }) {
  return ({ id, data }) => ({ cursor: id, ...read(JSON.parse(data), cursor !== undefined) });
}

/** `recovered` is also false for a new subscription, which is not a loss. */
function read({ type, data, recovered, epoch, offset }, isResumed) {
  if (type === "subscribed") return { isLossReported: isResumed && recovered === false };
  return type === "message" ? { message: data, position: { epoch, offset } } : {};
}
