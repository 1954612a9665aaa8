// This gateway, spoken to without its client.
import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Gateway, range, until, WebSocket } from "../support.mjs";
import { memoryOf, readEvents, readFrames } from "./stream.mjs";

export async function startLastmile({ kept = 20, secs = 300, storage = "memory", redis, room = 256 << 20 } = {}) {
  const folder = await mkdtemp(join(tmpdir(), "lastmile-recovery-"));
  const engine = { memory: "", disk: `[engine]\nkind = "disk"\npath = "${folder}/store"\n`, redis: `[engine]\nkind = "redis"\nurl = "${redis}"\n` };
  const gateway = await Gateway.start({
    ...(storage === "redis" && { egress: "" }),
    channels: `subscribers = "anyone"\nbacklog_messages = ${kept}\nbacklog_secs = ${secs}\nbacklog_bytes = 0`,
    more: `[limits]\nmax_backlog_bytes = ${room}\n${engine[storage]}`,
  });
  const query = (channels) => channels.map((channel) => `channel=${channel}`).join("&");
  return {
    publish: (channel, n, text = "") => gateway.publish(channel, { channel, n, text }),
    async publishMany(channel, from, to, text) {
      for (let n = from; n <= to; n += 50) {
        await gateway.publishAll(channel, range(n, Math.min(to, n + 49)).map((n) => ({ channel, n, text })));
      }
    },
    port: () => gateway.port,
    /** The answer was lost on its way, so the publisher asks again. */
    async publishTwice(channel, n) {
      const key = randomUUID();
      for (let tries = 0; tries < 2; tries++) await gateway.publish(channel, { channel, n }, undefined, { "idempotency-key": key });
    },
    events(subscriber, channels, { url = gateway.url } = {}) {
      const { place } = subscriber;
      const headers = place === undefined ? {} : { "last-event-id": place };
      return readEvents(subscriber, `${url}/v1/events?${query(channels)}`, headers, readEvent(subscriber));
    },
    async socket(subscriber, channel) {
      const socket = new WebSocket(`${gateway.url.replace("http", "ws")}/v1/subscribe`, "lastmile.v1");
      // It goes on by the message's own place, and so does what comes after it.
      subscriber.place = undefined;
      const stream = await readFrames(subscriber, socket, (text) => read(JSON.parse(text), true));
      socket.send(JSON.stringify({ type: "subscribe", id: "1", channel, since: subscriber.position }));
      return stream;
    },
    async poll(subscriber, channel) {
      const { place, position } = subscriber;
      const from = place ? `&cursor=${place}` : `&since=${position.epoch}-${position.offset}`;
      const answer = await (await fetch(`${gateway.url}/v1/poll?channel=${channel}${from}&wait=1`)).json();
      for (const frame of [...answer.subscribed ?? [], ...answer.messages]) subscriber.take(read(frame, true));
      subscriber.take({ place: answer.cursor });
    },
    /** A place that the channel did not reach yet. */
    eventsAhead(subscriber, channel) {
      const since = `${subscriber.position.epoch}-${subscriber.position.offset + 1000}`;
      return readEvents(subscriber, `${gateway.url}/v1/events?channel=${channel}&since=${since}`, {}, readEvent(subscriber));
    },
    restart: async (signal = "SIGTERM") => (await gateway.stop(signal), gateway.run()),
    async reload() {
      gateway.process.kill("SIGHUP");
      await until(() => gateway.log.some((line) => /"reloaded"/.test(line)), "the reload");
    },
    memory: () => memoryOf(gateway.process.pid),
    close: async () => (await gateway.close(), rm(folder, { recursive: true, force: true })),
  };
}

const readEvent = ({ place }) => ({ id, data }) => ({ place: id, ...read(JSON.parse(data), place !== undefined) });

/** Who asks for no place is told that nothing before was asked for, which is no loss. */
function read({ type, data, recovered, epoch, offset }, isBack) {
  if (type === "subscribed") return { told: isBack && recovered === false };
  return type === "message" ? { item: data, position: { epoch, offset } } : {};
}
