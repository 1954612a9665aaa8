// nginx's pub/sub module, set up as well as its documentation knows: places in the URL, so that a WebSocket can go on
// somewhere too, and WebSocket messages that carry them. One worker, so that the table is the same on each machine.
import { readFile } from "node:fs/promises";
import { until, WebSocket } from "../support.mjs";
import { startNginx } from "../lib/nginx.mjs";
import { memoryOf, readEvents, readFrames } from "./stream.mjs";

export async function startNchan({ kept = 20, secs = 300, storage = "memory", redis, room } = {}) {
  const store = storage === "redis" ? `upstream store { nchan_redis_server ${redis}; }` : "";
  const use = storage === "redis" ? "nchan_redis_pass store;" : "";
  const nginx = await startNginx(`${store} ${room ? `nchan_shared_memory_size ${room};` : ""}
    server {
      listen 127.0.0.1:PORT;
      location ~ ^/pub/(.+)$ {
        nchan_publisher; nchan_channel_id $1; ${use}
        nchan_message_buffer_length ${kept}; nchan_message_timeout ${secs}s;
      }
      location ~ ^/sub/(.+)$ {
        nchan_subscriber websocket eventsource longpoll; nchan_channel_id $1; nchan_channel_id_split_delimiter ","; ${use}
        nchan_subscriber_last_message_id $arg_last_event_id $http_last_event_id; nchan_subscriber_first_message newest;
      }
    }`, { workers: 1 });
  // Without its Redis it takes and knows nothing.
  const isReady = async () => {
    const response = await fetch(`${nginx.url}/pub/nothing`);
    await response.text();
    return response.status !== 503;
  };
  await until(isReady, "nchan's storage");
  const workers = async () => (await readFile(`/proc/${nginx.process.pid}/task/${nginx.process.pid}/children`, "utf8")).split(" ");
  const publish = async (channel, n, text = "") => {
    const response = await fetch(`${nginx.url}/pub/${channel}`, { method: "POST", body: JSON.stringify({ channel, n, text }) });
    if (!response.ok) throw new Error(`${response.status} of nchan`);
    await response.text();
  };
  return {
    publish,
    async publishMany(channel, from, to, text) {
      for (let n = from; n <= to; n++) await publish(channel, n, text);
    },
    port: () => nginx.port,
    /** It has no word for "the same once more". */
    publishTwice: async (channel, n) => (await publish(channel, n), publish(channel, n)),
    events(subscriber, channels, { url = nginx.url, place = subscriber.place } = {}) {
      const headers = place === undefined ? {} : { "last-event-id": place };
      return readEvents(subscriber, `${url}/sub/${channels}`, headers, ({ id, data }) => ({ place: id, item: JSON.parse(data) }));
    },
    eventsAhead(subscriber, channel) {
      const [seconds] = subscriber.place.split(":");
      return this.events(subscriber, [channel], { place: `${Number(seconds) + 1000}:0` });
    },
    socket(subscriber, channel) {
      const place = subscriber.place ? `?last_event_id=${encodeURIComponent(subscriber.place)}` : "";
      const socket = new WebSocket(`${nginx.url.replace("http", "ws")}/sub/${channel}${place}`, "ws+meta.nchan");
      return readFrames(subscriber, socket, (text) => {
        const [head, data] = text.split("\n\n");
        return data ? { place: /^id: (.*)$/m.exec(head)?.[1], item: JSON.parse(data) } : {};
      });
    },
    /** One message an answer. */
    async poll(subscriber, channel) {
      const place = subscriber.place ? `?last_event_id=${encodeURIComponent(subscriber.place)}` : "";
      const response = await fetch(`${nginx.url}/sub/${channel}${place}`, { signal: AbortSignal.timeout(1500) }).catch(() => undefined);
      if (!response?.ok) return;
      const seconds = Date.parse(response.headers.get("last-modified")) / 1000;
      subscriber.take({ place: `${seconds}:${response.headers.get("etag")}`, item: await response.json() });
    },
    restart: async (signal) => (await nginx.restart(signal), until(isReady, "nchan's storage")),
    async reload() {
      const before = (await workers()).filter(Boolean);
      nginx.process.kill("SIGHUP");
      await until(async () => !(await workers()).some((worker) => before.includes(worker)), "the workers' end");
    },
    memory: () => memoryOf(nginx.process.pid),
    close: nginx.close,
  };
}
