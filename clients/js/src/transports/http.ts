// What server-sent events and polls share: requests that say where each channel goes on, and what refusals mean.

import { DRAINING, LOST, TOKEN_EXPIRED, UNAUTHENTICATED, parse, type Ended, type Frame } from "../protocol.js";
import type { Link, LinkContext } from "./link.js";

/** What one request is good for, as the gateway has it. */
const MAX_CHANNELS = 100;

/** Refusals that are not about a channel, as close codes. */
const CLOSE_CODES: Record<string, number> = {
  draining: DRAINING, rate_limited: 4004, engine_unavailable: 4005, connection_limit: 4004, internal: 4005,
  origin_forbidden: 4502,
};

/** A problem (RFC 9457) in an answer. */
export class Refused extends Error {
  constructor(readonly status: number, readonly code: string, readonly title: string, readonly waitMs?: number) {
    super(title);
  }
}

interface Listener {
  id: string;
  /** Whether the client was told `subscribed`. */
  told: boolean;
}

export abstract class HttpLink implements Link {
  protected channels = new Map<string, Listener>();
  #run?: AbortController;
  #timer?: ReturnType<typeof setTimeout>;
  #isWelcome = false;
  #isOver = false;

  constructor(protected context: LinkContext, private pingSecs: number) {
    this.#again();
  }

  /** Carries messages until `signal`; `started` says that this run does. Ends or throws when the gateway is done. */
  protected abstract run(signal: AbortSignal, started: () => void): Promise<void>;

  subscribe(id: string, channel: string): void {
    if (this.channels.size >= MAX_CHANNELS) {
      const message = `without a WebSocket there are at most ${MAX_CHANNELS} channels`;
      queueMicrotask(() => this.tell({ type: "error", id, code: "limit_reached", message, temporary: true }));
      return;
    }
    this.channels.set(channel, { id, told: false });
    this.#again();
  }

  unsubscribe(id: string, channel: string): void {
    if (this.channels.delete(channel)) this.#again();
    queueMicrotask(() => this.tell({ type: "unsubscribed", id, channel }));
  }

  send({ type, id }: Frame): void {
    // The gateway's heartbeats say that it lives, if anything is asked of it.
    if (type === "ping" && this.channels.size) return;
    const refusal = { code: "unsupported", message: `\`${type}\` needs a WebSocket`, temporary: true };
    queueMicrotask(() => this.tell(type === "ping" ? { type: "pong", id } : { type: "error", id, ...refusal }));
  }

  close(): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.#run?.abort();
  }

  protected tell(frame: Frame): void {
    if (this.#isOver) return;
    if (!this.#isWelcome) {
      this.#isWelcome = true;
      this.context.onFrame({ type: "welcome", ping_secs: this.pingSecs });
      if (this.#isOver || frame.type === "welcome") return;
    }
    const listener = frame.channel === undefined ? undefined : this.channels.get(frame.channel);
    if (frame.type === "subscribed") {
      // Each request is answered so; what goes on without a loss is no news.
      if (!listener || (listener.told && frame.recovered)) return;
      listener.told = true;
      frame = { ...frame, id: listener.id };
    }
    if (frame.type === "unsubscribed" && frame.reason) this.channels.delete(frame.channel!);
    this.context.onFrame(frame);
  }

  protected end(ended: Ended): void {
    if (this.#isOver) return;
    this.close();
    this.context.onEnd(ended);
  }

  /** Something of the gateway arrived. */
  protected live(): void {
    this.context.onLife();
    if (!this.#isWelcome) this.tell({ type: "welcome" });
  }

  /** The channels and where each goes on: `channel=a&since=k3-41&channel=b`. */
  protected query(): string {
    const query = new URLSearchParams();
    for (const channel of this.channels.keys()) {
      const { since, backlog } = this.context.wish(channel);
      query.append("channel", channel);
      if (since) query.append("since", `${since.epoch}-${since.offset}`);
      else if (backlog) query.append("backlog", String(backlog));
    }
    return query.toString();
  }

  /** Asks for a path; throws `Refused` for a problem and an error for what is no answer of a gateway. */
  protected async get(path: string, accept: string, signal: AbortSignal): Promise<Response> {
    const { url, token, credentials, fetch } = this.context;
    const headers: Record<string, string> = { Accept: accept };
    if (token) headers.Authorization = `Bearer ${token}`;
    const response = await fetch(url + path, { headers, credentials, signal, cache: "no-store" });
    const isOf = (type: string) => response.headers.get("content-type")?.startsWith(type);
    if (response.ok && isOf(accept)) return response;
    const problem = isOf("application/problem+json") ? parse(await response.text()) : undefined;
    response.body?.cancel().catch(() => {});
    const seconds = Number(response.headers.get("retry-after")) || 0;
    const slug = String(problem?.type ?? "").split("/").pop()!.replaceAll("-", "_");
    throw new Refused(response.status, slug, problem?.detail ?? problem?.title ?? slug, seconds * 1000);
  }

  /** Runs with the channels as they are now, once those who ask in the same moment have done so. */
  #again(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const before = this.#run;
      if (!this.channels.size) {
        before?.abort();
        this.#run = undefined;
        return this.live();
      }
      const run = (this.#run = new AbortController());
      // The run before goes on until this one carries something, so that nothing is missed in between.
      this.run(run.signal, () => before?.abort())
        .then(() => LOST, (error) => (error instanceof Refused ? this.#refused(error, run.signal) : LOST))
        .catch(() => LOST)
        .then((ended) => {
          before?.abort();
          if (ended && this.#run === run) this.end(ended);
        });
    });
  }

  /** What a refusal means for the link; nothing if it goes on with other channels. */
  async #refused(refused: Refused, signal: AbortSignal): Promise<Ended | undefined> {
    const { status, code, waitMs } = refused;
    const closeCode = CLOSE_CODES[code];
    if (closeCode) return { code: closeCode, reason: code, waitMs };
    if (!code || code === "not_found" || status >= 500) return { ...LOST, waitMs };
    if (waitMs) return { code: 4004, reason: code, waitMs };
    if (code === "unauthenticated" && this.context.token) {
      // A token that was good has come to its end; one that never was is no use again.
      return this.#isWelcome
        ? { code: TOKEN_EXPIRED, reason: "token_expired" }
        : { code: UNAUTHENTICATED, reason: code };
    }
    // It does not say which channel it is about.
    const all = [...this.channels];
    for (const [channel, { id }] of all) {
      const why = all.length === 1 ? refused : await this.#probe(channel, signal);
      if (this.#isOver || signal.aborted) return;
      if (!why) continue;
      this.channels.delete(channel);
      this.tell({ type: "error", id, channel, code: why.code, message: why.title, temporary: why.status === 429 });
    }
    if (this.channels.size === all.length) return { code: 4004, reason: code };
    this.#again();
    return undefined;
  }

  async #probe(channel: string, signal: AbortSignal): Promise<Refused | undefined> {
    try {
      const query = new URLSearchParams({ channel, wait: "0" });
      const response = await this.get(`/v1/poll?${query}`, "application/json", signal);
      await response.body?.cancel();
      return undefined;
    } catch (error) {
      if (error instanceof Refused) return error;
      throw error;
    }
  }
}
