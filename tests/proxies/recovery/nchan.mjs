// nchan, nginx's pub/sub module, as a server of the table. Message ids are in the URL and in WebSocket messages, so
// that a WebSocket can resume as well. One worker, so that the table is the same on each machine.
import { readFile } from "node:fs/promises";
import { waitFor, WebSocket } from "../support.mjs";
import { startNginx } from "../lib/nginx.mjs";
import { memoryOf, readEvents, readFrames } from "./stream.mjs";

export async function startNchan({ backlog = 20, backlogSecs = 300, storage = "memory", redis, memoryBytes } = {}) {
  const store = storage === "redis" ? `upstream store { nchan_redis_server ${redis}; }` : "";
  const use = storage === "redis" ? "nchan_redis_pass store;" : "";
  const nginx = await startNginx(`${store} ${memoryBytes ? `nchan_shared_memory_size ${memoryBytes};` : ""}
    server {
      listen 127.0.0.1:PORT;
      location ~ ^/pub/(.+)$ {
        nchan_publisher; nchan_channel_id $1; ${use}
        nchan_message_buffer_length ${backlog}; nchan_message_timeout ${backlogSecs}s;
      }
      location ~ ^/sub/(.+)$ {
        nchan_subscriber websocket eventsource longpoll; ${use}
        nchan_channel_id $1; nchan_channel_id_split_delimiter ",";
        nchan_subscriber_last_message_id $arg_last_event_id $http_last_event_id; nchan_subscriber_first_message newest;
      }
    }`, { workers: 1 });
  // Before it is connected to Redis it refuses all requests.
  const isReady = async () => {
    const response = await fetch(`${nginx.url}/pub/nothing`);
    await response.text();
    return response.status !== 503;
  };
  await waitFor(isReady, "nchan's storage");
  const workers = async () => {
    const { pid } = nginx.process;
    return (await readFile(`/proc/${pid}/task/${pid}/children`, "utf8")).split(" ").filter(Boolean);
  };
  const publish = async (channel, n, text = "") => {
    const body = JSON.stringify({ channel, n, text });
    const response = await fetch(`${nginx.url}/pub/${channel}`, { method: "POST", body });
    if (!response.ok) throw new Error(`nchan responded ${response.status}`);
    await response.text();
  };
  return {
    publish,
    async publishMany(channel, from, to, text) {
      for (let n = from; n <= to; n++) await publish(channel, n, text);
    },
    port: () => nginx.port,
    /** nchan has no idempotency key. */
    publishTwice: async (channel, n) => (await publish(channel, n), publish(channel, n)),
    events(subscriber, channels, { url = nginx.url, cursor = subscriber.cursor } = {}) {
      const headers = cursor === undefined ? {} : { "last-event-id": cursor };
      const read = ({ id, data }) => ({ cursor: id, message: JSON.parse(data) });
      return readEvents(subscriber, `${url}/sub/${channels}`, headers, read);
    },
    eventsAhead(subscriber, channel) {
      const [seconds] = subscriber.cursor.split(":");
      return this.events(subscriber, [channel], { cursor: `${Number(seconds) + 1000}:0` });
    },
    socket(subscriber, channel) {
      const url = `${nginx.url.replace("http", "ws")}/sub/${channel}${query(subscriber)}`;
      const socket = new WebSocket(url, "ws+meta.nchan");
      return readFrames(subscriber, socket, (text) => {
        const [head, data] = text.split("\n\n");
        return data ? { cursor: /^id: (.*)$/m.exec(head)?.[1], message: JSON.parse(data) } : {};
      });
    },
    /** A response has one message. */
    async poll(subscriber, channel) {
      const url = `${nginx.url}/sub/${channel}${query(subscriber)}`;
      const response = await fetch(url, { signal: AbortSignal.timeout(1500) }).catch(() => undefined);
      if (!response?.ok) return;
      const seconds = Date.parse(response.headers.get("last-modified")) / 1000;
      const cursor = `${seconds}:${response.headers.get("etag")}`;
      subscriber.accept({ cursor, message: await response.json() });
    },
    restart: async (signal) => (await nginx.restart(signal), waitFor(isReady, "nchan's storage")),
    async reload() {
      const before = await workers();
      nginx.process.kill("SIGHUP");
      const areReplaced = async () => !(await workers()).some((worker) => before.includes(worker));
      await waitFor(areReplaced, "the end of the old workers");
    },
    memory: () => memoryOf(nginx.process.pid),
    close: nginx.close,
  };
}

const query = ({ cursor }) => (cursor ? `?last_event_id=${encodeURIComponent(cursor)}` : "");
