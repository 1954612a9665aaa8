// What server-sent events and polls share: requests that say where each channel goes on, and what refusals mean.

import { CLOSE_DRAINING, CONNECTION_LOST, CLOSE_TOKEN_EXPIRED, CLOSE_UNAUTHENTICATED, parse, type CloseInfo, type Frame } from "../protocol.js";
import type { Link, LinkContext } from "./link.js";

/** What one request is good for, as the gateway has it. */
const MAX_CHANNELS = 100;

/** Refusals that are not about a channel, as close codes. */
const CLOSE_CODES: Record<string, number> = {
  draining: CLOSE_DRAINING, rate_limited: 4004, engine_unavailable: 4005, connection_limit: 4004, internal: 4005,
  origin_forbidden: 4502,
};

/** A problem (RFC 9457) in an answer. */
export class ProblemError extends Error {
  constructor(readonly status: number, readonly code: string, readonly title: string, readonly waitMs?: number) {
    super(title);
  }
}

interface ChannelEntry {
  id: string;
  /** Whether the client was told `subscribed`. */
  isConfirmed: boolean;
}

export abstract class HttpLink implements Link {
  protected channels = new Map<string, ChannelEntry>();
  #run?: AbortController;
  #timer?: ReturnType<typeof setTimeout>;
  #isReady = false;
  #isClosed = false;

  constructor(protected context: LinkContext, private idleSecs: number) {
    this.#restart();
  }

  /** Carries messages until `signal`; `started` says that this run does. Ends or throws when the gateway is done. */
  protected abstract run(signal: AbortSignal, onStarted: () => void): Promise<void>;

  subscribe(id: string, channel: string): void {
    if (this.channels.size >= MAX_CHANNELS) {
      const message = `without a WebSocket there are at most ${MAX_CHANNELS} channels`;
      queueMicrotask(() => this.emitFrame({ type: "error", id, code: "limit_reached", message, temporary: true }));
      return;
    }
    this.channels.set(channel, { id, isConfirmed: false });
    this.#restart();
  }

  unsubscribe(id: string, channel: string): void {
    if (this.channels.delete(channel)) this.#restart();
    queueMicrotask(() => this.emitFrame({ type: "unsubscribed", id, channel }));
  }

  send({ type, id }: Frame): void {
    // The gateway's heartbeats say that it lives, if anything is asked of it.
    if (type === "ping" && this.channels.size) return;
    const refusal = { code: "unsupported", message: `\`${type}\` needs a WebSocket`, temporary: true };
    queueMicrotask(() => this.emitFrame(type === "ping" ? { type: "pong", id } : { type: "error", id, ...refusal }));
  }

  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#run?.abort();
  }

  protected emitFrame(frame: Frame): void {
    if (this.#isClosed) return;
    if (!this.#isReady) {
      this.#isReady = true;
      this.context.onFrame({ type: "welcome", ping_secs: this.idleSecs });
      if (this.#isClosed || frame.type === "welcome") return;
    }
    const entry = frame.channel === undefined ? undefined : this.channels.get(frame.channel);
    if (frame.type === "subscribed") {
      // Each request is answered so; what goes on without a loss is no news.
      if (!entry || (entry.isConfirmed && frame.recovered)) return;
      entry.isConfirmed = true;
      frame = { ...frame, id: entry.id };
    }
    if (frame.type === "unsubscribed" && frame.reason) this.channels.delete(frame.channel!);
    this.context.onFrame(frame);
  }

  protected finish(close: CloseInfo): void {
    if (this.#isClosed) return;
    this.close();
    this.context.onClose(close);
  }

  /** Something of the gateway arrived. */
  protected recordActivity(): void {
    this.context.onActivity();
    if (!this.#isReady) this.emitFrame({ type: "welcome" });
  }

  /** The channels and where each goes on: `channel=a&since=k3-41&channel=b`. */
  protected query(): string {
    const query = new URLSearchParams();
    for (const channel of this.channels.keys()) {
      const { since, backlog } = this.context.resumeParams(channel);
      query.append("channel", channel);
      if (since) query.append("since", `${since.epoch}-${since.offset}`);
      else if (backlog) query.append("backlog", String(backlog));
    }
    return query.toString();
  }

  /** Asks for a path; throws `ProblemError` for a problem and an error for what is no answer of a gateway. */
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
    throw new ProblemError(response.status, slug, problem?.detail ?? problem?.title ?? slug, seconds * 1000);
  }

  /** Runs with the channels as they are now, once those who ask in the same moment have done so. */
  #restart(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const before = this.#run;
      if (!this.channels.size) {
        before?.abort();
        this.#run = undefined;
        return this.recordActivity();
      }
      const run = (this.#run = new AbortController());
      // The run before goes on until this one carries something, so that nothing is missed in between.
      this.run(run.signal, () => before?.abort())
        .then(() => CONNECTION_LOST, (error) => (error instanceof ProblemError ? this.#onProblem(error, run.signal) : CONNECTION_LOST))
        .catch(() => CONNECTION_LOST)
        .then((close) => {
          before?.abort();
          if (close && this.#run === run) this.finish(close);
        });
    });
  }

  /** What a refusal means for the link; nothing if it goes on with other channels. */
  async #onProblem(problem: ProblemError, signal: AbortSignal): Promise<CloseInfo | undefined> {
    const { status, code, waitMs } = problem;
    const closeCode = CLOSE_CODES[code];
    if (closeCode) return { code: closeCode, reason: code, waitMs };
    if (!code || code === "not_found" || status >= 500) return { ...CONNECTION_LOST, waitMs };
    if (waitMs) return { code: 4004, reason: code, waitMs };
    if (code === "unauthenticated" && this.context.token) {
      // A token that was good has come to its end; one that never was is no use again.
      return this.#isReady
        ? { code: CLOSE_TOKEN_EXPIRED, reason: "token_expired" }
        : { code: CLOSE_UNAUTHENTICATED, reason: code };
    }
    // It does not say which channel it is about.
    const all = [...this.channels];
    for (const [channel, { id }] of all) {
      const why = all.length === 1 ? problem : await this.#checkChannel(channel, signal);
      if (this.#isClosed || signal.aborted) return;
      if (!why) continue;
      this.channels.delete(channel);
      this.emitFrame({ type: "error", id, channel, code: why.code, message: why.title, temporary: why.status === 429 });
    }
    if (this.channels.size === all.length) return { code: 4004, reason: code };
    this.#restart();
    return undefined;
  }

  async #checkChannel(channel: string, signal: AbortSignal): Promise<ProblemError | undefined> {
    try {
      const query = new URLSearchParams({ channel, wait: "0" });
      const response = await this.get(`/v1/poll?${query}`, "application/json", signal);
      await response.body?.cancel();
      return undefined;
    } catch (error) {
      if (error instanceof ProblemError) return error;
      throw error;
    }
  }
}
