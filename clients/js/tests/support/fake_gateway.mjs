// A scripted gateway with one channel over all three transports, and the faults of a proxy in front of it.
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const CHANNEL = "c", EPOCH = "k";

const messageFrame = (offset) => ({
  type: "message", channel: CHANNEL, message_id: `${EPOCH}-${offset}`, epoch: EPOCH, offset, time: "", publisher: "p",
  data: offset,
});

/** Faults: `refuse(count, request)` returns a problem for the count-th request; `stripsUpgrade`; `buffersEvents`;
 * `refusesToken({ token })` for the token of a request or a `hello`; `cutsEventsAfterMs`; `cutsSocketsAfterMs`; `mutesSockets` sends no frame, `staysSilent` none once subscribed. */
export async function openFakeGateway(faults = {}, port = 0) {
  const gateway = new FakeGateway(faults);
  await new Promise((ready) => gateway.server.listen(port, "127.0.0.1", ready));
  gateway.url = `http://127.0.0.1:${gateway.server.address().port}`;
  return gateway;
}

class FakeGateway {
  /** Each as `{ path, since, token }`. */
  requests = [];
  #published = 0;
  #subscribers = new Set();
  #sockets = new WebSocketServer({ noServer: true });

  constructor(faults) {
    this.faults = faults;
    this.server = createServer((request, response) => this.#onRequest(request, response));
    this.server.on("upgrade", (request, socket, head) => this.#onUpgrade(request, socket, head));
  }

  publish() {
    this.#published += 1;
    [...this.#subscribers].forEach((deliver) => deliver(messageFrame(this.#published)));
  }

  close() {
    this.server.closeAllConnections();
    for (const socket of this.#sockets.clients) socket.terminate();
    this.server.close();
  }

  #subscribed(since) {
    const recovered = since !== undefined;
    return { type: "subscribed", channel: CHANNEL, epoch: EPOCH, offset: this.#published, recovered };
  }

  #messagesAfter(offset) {
    return Array.from({ length: this.#published - offset }, (_, index) => messageFrame(offset + index + 1));
  }

  #onRequest(request, response) {
    const { pathname, searchParams } = new URL(request.url, "http://gateway");
    const since = searchParams.has("since") ? Number(searchParams.get("since").split("-")[1]) : undefined;
    this.requests.push({ path: pathname, since, token: request.headers.authorization });
    const problem = this.faults.refuse?.(this.requests.length, request);
    if (problem) return refuse(response, problem);
    // The check whether the gateway can be reached has no channel.
    if (!searchParams.has("channel")) return refuse(response, { status: 400, slug: "malformed" });
    if (this.faults.refusesToken?.({ token: request.headers.authorization })) {
      return refuse(response, { status: 401, slug: "unauthenticated" });
    }
    if (pathname === "/v1/events") return this.#stream(request, response, since);
    return this.#poll(response, since, Number(searchParams.get("wait")) * 1000);
  }

  #stream(request, response, since) {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.flushHeaders();
    if (this.faults.buffersEvents) return;
    const write = (frame, event) => {
      response.write(`${event ? `event: ${event}\n` : ""}id: x\ndata: ${JSON.stringify(frame)}\n\n`);
    };
    write(this.#subscribed(since), "subscribed");
    this.#messagesAfter(since ?? this.#published).forEach((frame) => write(frame));
    const deliver = (frame) => write(frame);
    this.#subscribers.add(deliver);
    request.on("close", () => this.#subscribers.delete(deliver));
    if (this.faults.cutsEventsAfterMs) setTimeout(() => response.destroy(), this.faults.cutsEventsAfterMs);
  }

  #poll(response, since, waitMs) {
    const offset = since ?? this.#published;
    const respond = () => {
      if (response.writableEnded) return;
      const messages = this.#messagesAfter(offset), subscribed = [this.#subscribed(since)];
      const body = { messages, cursor: "x", recovered: true, subscribed };
      response.writeHead(200, { "content-type": "application/json" });
      response.end(JSON.stringify(body));
    };
    if (since === undefined || this.#published > offset) return respond();
    this.#subscribers.add(respond);
    const timer = setTimeout(respond, waitMs);
    response.on("close", () => (this.#subscribers.delete(respond), clearTimeout(timer)));
  }

  #onUpgrade(request, socket, head) {
    this.requests.push({ path: request.url });
    const { stripsUpgrade, cutsSocketsAfterMs, mutesSockets } = this.faults;
    if (stripsUpgrade) return socket.end("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n");
    this.#sockets.handleUpgrade(request, socket, head, (ws) => {
      if (cutsSocketsAfterMs) setTimeout(() => socket.destroy(), cutsSocketsAfterMs);
      if (!mutesSockets) this.#serveSocket(ws);
    });
  }

  #serveSocket(ws) {
    const { staysSilent, pingSecs = 25 } = this.faults;
    const deliver = (frame) => ws.send(JSON.stringify(frame));
    ws.on("message", (text) => {
      const { type, id, since, token } = JSON.parse(text);
      if (["hello", "ping"].includes(type) && this.faults.refusesToken?.({ token })) return ws.close(4501, "unauthenticated");
      if (staysSilent && this.#subscribers.size) return;
      const isPing = type === "ping" && this.#subscribers.has(deliver);
      if (isPing) deliver({ type: "pong", id });
      else if (type === "ping" || type === "hello") deliver({ type: "welcome", ping_secs: pingSecs });
      if (type !== "subscribe") return;
      deliver({ ...this.#subscribed(since?.offset), id });
      this.#messagesAfter(since?.offset ?? this.#published).forEach(deliver);
      this.#subscribers.add(deliver);
    });
    ws.on("close", () => this.#subscribers.delete(deliver));
  }
}

function refuse(response, { status, slug, headers }) {
  response.writeHead(status, { "content-type": "application/problem+json", ...headers });
  response.end(JSON.stringify({ type: `/problems/${slug}`, title: slug, status }));
}
