// Common base of server-sent events and polls: requests with a position for each channel, and refusals.

import {
  CLOSE_DRAINING, CLOSE_ENGINE_UNAVAILABLE, CLOSE_FORBIDDEN, CLOSE_ISSUER_UNAVAILABLE, CLOSE_RATE_LIMITED,
  CLOSE_TOKEN_EXPIRED, CLOSE_UNAUTHENTICATED, CONNECTION_LOST, parse, type CloseInfo, type Frame,
} from "../protocol.js";
import type { Link, LinkContext } from "./link.js";

/** The gateway's limit for one request. */
const MAX_CHANNELS_PER_REQUEST = 100;

/** Close codes for refusals that concern the whole connection. */
const CLOSE_CODE_BY_PROBLEM: Record<string, number> = {
  draining: CLOSE_DRAINING,
  rate_limited: CLOSE_RATE_LIMITED,
  connection_limit: CLOSE_RATE_LIMITED,
  engine_unavailable: CLOSE_ENGINE_UNAVAILABLE,
  internal: CLOSE_ENGINE_UNAVAILABLE,
  issuer_unavailable: CLOSE_ISSUER_UNAVAILABLE,
  origin_forbidden: CLOSE_FORBIDDEN,
};

/** A refusal with problem details (RFC 9457). */
export class ProblemError extends Error {
  constructor(
    readonly status: number, readonly code: string, readonly title: string, readonly isTemporary: boolean,
    readonly waitMs?: number,
  ) {
    super(title);
  }
}

interface ChannelEntry {
  id: string;
  /** Whether the client has received `subscribed`. */
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

  /** Receives frames until `signal` aborts or the gateway ends the request. Calls `onStarted` at the first data. */
  protected abstract run(signal: AbortSignal, onStarted: () => void): Promise<void>;

  subscribe(id: string, channel: string): void {
    if (this.channels.size >= MAX_CHANNELS_PER_REQUEST) {
      const message = `at most ${MAX_CHANNELS_PER_REQUEST} channels without a WebSocket`;
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
    // The gateway's heartbeats replace pings while a request is open.
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
      // Every response has one; a repeated one without a loss is dropped.
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

  /** Reports that the gateway sent data. */
  protected recordActivity(): void {
    this.context.onActivity();
    if (!this.#isReady) this.emitFrame({ type: "welcome" });
  }

  /** The channels and their positions: `channel=a&since=k3-41&channel=b`. */
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

  /** Sends a request. Throws a `ProblemError` for any response that does not have the expected type. */
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
    const { status } = response;
    const isTemporary = problem?.temporary ?? status === 429;
    throw new ProblemError(status, slug, problem?.detail ?? problem?.title ?? slug, isTemporary, seconds * 1000);
  }

  /** Starts a run with the current channels. Deferred, so that calls of one turn of the event loop share a request. */
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
      // The previous run continues until this one receives data, so that no publication is missed in between.
      this.run(run.signal, () => before?.abort())
        .then(() => CONNECTION_LOST, (error) => {
          return error instanceof ProblemError ? this.#onProblem(error, run.signal) : CONNECTION_LOST;
        })
        .catch(() => CONNECTION_LOST)
        .then((close) => {
          before?.abort();
          if (close && this.#run === run) this.finish(close);
        });
    });
  }

  /** Handles a refusal. Returns a close for the whole link, or nothing if it continues with other channels. */
  async #onProblem(problem: ProblemError, signal: AbortSignal): Promise<CloseInfo | undefined> {
    const { status, code, waitMs } = problem;
    const closeCode = CLOSE_CODE_BY_PROBLEM[code];
    if (closeCode) return { code: closeCode, reason: code, waitMs };
    if (!code || code === "not_found" || status >= 500) return { ...CONNECTION_LOST, waitMs };
    if (waitMs) return { code: CLOSE_RATE_LIMITED, reason: code, waitMs };
    if (code === "unauthenticated" && this.context.token) {
      // A token that was accepted before has expired; one that never was accepted is not tried again.
      return this.#isReady
        ? { code: CLOSE_TOKEN_EXPIRED, reason: "token_expired" }
        : { code: CLOSE_UNAUTHENTICATED, reason: code };
    }
    // The refusal does not name its channel: ask for each one alone.
    const all = [...this.channels];
    for (const [channel, { id }] of all) {
      const why = all.length === 1 ? problem : await this.#checkChannel(channel, signal);
      if (this.#isClosed || signal.aborted) return;
      if (!why) continue;
      this.channels.delete(channel);
      this.emitFrame({ type: "error", id, channel, code: why.code, message: why.title, temporary: why.isTemporary });
    }
    if (this.channels.size === all.length) return { code: CLOSE_RATE_LIMITED, reason: code };
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
