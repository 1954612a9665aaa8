// The client: keeps one connection over the selected transport, with its subscriptions and replies.

import { Backoff } from "./backoff.js";
import { ChannelSubscriptions } from "./channel_subscriptions.js";
import { Emitter } from "./emitter.js";
import type { ClientEvents, ClientOptions, State, Timing } from "./options.js";
import * as protocol from "./protocol.js";
import { CONNECTION_LOST, LastmileError, type CloseInfo, type Frame } from "./protocol.js";
import { Subscription, type SubscribeOptions } from "./subscription.js";
import { Tabs } from "./tabs.js";
import { gatewayUrl, isReachable } from "./gateway_url.js";
import { principalOf, Tokens } from "./tokens.js";
import { TransportSelector } from "./transport_selector.js";
import { openEvents } from "./transports/events.js";
import type { Link, OpenLink, TransportName } from "./transports/link.js";
import { openPoll } from "./transports/poll.js";
import { openWebSocket } from "./transports/websocket.js";
import { listenForWakeEvents } from "./wake_events.js";

interface Pending {
  command: Frame;
  isSent: boolean;
  settle(error?: LastmileError, answer?: unknown): void;
}

const OPEN_LINK: Record<TransportName, OpenLink> = { websocket: openWebSocket, events: openEvents, poll: openPoll };

/** Replies that wait for a connection or for the publisher. */
const MAX_PENDING_REPLIES = 1000;

/** The longest delay that `setTimeout` takes. */
const MAX_TIMER_MS = 2 ** 31 - 1;

export function connect(url: string | URL, options: ClientOptions = {}): Client {
  return new Client(gatewayUrl(url), options);
}

export class Client extends Emitter<ClientEvents> {
  state: State = "idle";
  /** The transport in use. */
  transport: TransportName | "tabs" | undefined;

  #channels = new Map<string, ChannelSubscriptions>();
  #pending = new Map<string, Pending>();
  #link: Link | undefined;
  /** Number of the current attempt: callbacks of older ones are ignored. */
  #attempt = 0;
  #ids = 0;
  #timing: Timing;
  #backoff: Backoff;
  #selector: TransportSelector;
  #tokens: Tokens;
  #tabs: Tabs | undefined;
  /** The gateway did not answer at all: the next attempt begins with a check. */
  #isUnreachable = false;
  #error: LastmileError | undefined;
  #isReady = false;
  /** Close code of the last channel that the gateway ended: a connection without channels is closed with the same. */
  #channelCloseCode = 0;
  #lastActivity = 0;
  #openedAt = 0;
  #retryTimer: Timer;
  #openTimer: Timer;
  #stableTimer: Timer;
  #livenessTimer: Timer;
  #refreshTimer: Timer;
  #stopWakeEvents: () => void;

  /** @internal */
  constructor(readonly url: string, private options: ClientOptions, tokens?: Tokens) {
    super();
    this.#timing = {
      openMs: 8000, stableMs: 5000, pongMs: 10_000, backoffMs: 500, backoffMaxMs: 30_000, pollMs: 25_000,
      ...options.timing,
    };
    this.#backoff = new Backoff(this.#timing.backoffMs, this.#timing.backoffMaxMs);
    this.#tokens = tokens ?? new Tokens(options.token, this.#timing.openMs);
    const socket = options.WebSocket ?? globalThis.WebSocket;
    const order = options.transports ?? ["websocket", "events", "poll"];
    const usable = order.filter((name) => name !== "websocket" || socket);
    if (!usable.length) throw new LastmileError("unsupported", "no usable transport, pass the `WebSocket` option");
    this.#selector = new TransportSelector(usable, url);
    this.#stopWakeEvents = listenForWakeEvents(() => this.#onWake());
  }

  /** Subscribes to a channel and connects if needed. Subscriptions of one channel share its publications. */
  subscribe<T = unknown>(channel: string, options: SubscribeOptions = {}): Subscription<T> {
    const subscription = new Subscription<T>(channel, this.#subscriptionOwner, options);
    if (this.#isTerminal()) {
      // Deferred, so that the caller can add its listeners first.
      queueMicrotask(() => subscription.end(this.#error ?? new LastmileError("closed", "the client is closed")));
      return subscription;
    }
    let shared = this.#channels.get(channel);
    if (!shared) {
      const added = new ChannelSubscriptions(
        channel, () => this.#subscribeNow(added), () => this.#link?.unsubscribe(this.#nextId(), channel));
      this.#channels.set(channel, (shared = added));
    }
    shared.add(subscription);
    return subscription;
  }

  /** Replies to a message; resolves once its publisher has the reply. Needs a WebSocket. */
  async reply(channel: string, to: string, data: unknown): Promise<void> {
    await this.#request({ type: "reply", channel, to, data });
  }

  /** Replies to a message and resolves with the publisher's answer. Needs a WebSocket. */
  ask<T = unknown>(channel: string, to: string, data: unknown): Promise<T> {
    return this.#request({ type: "reply", channel, to, data, answer: true }) as Promise<T>;
  }

  /** Ends the connection and all subscriptions. */
  close(): void {
    if (this.state === "closed") return;
    this.#finish("closed", undefined);
    this.#tabs?.close();
    this.#stopWakeEvents();
  }

  #subscriptionOwner = {
    resume: (subscription: Subscription<any>) => this.#channels.get(subscription.channel)?.add(subscription),
    pause: ({ channel }: Subscription<any>) => this.#channels.get(channel)?.release(),
    remove: (subscription: Subscription<any>) => {
      const { channel } = subscription;
      const shared = this.#channels.get(channel);
      shared?.remove(subscription);
      if (shared?.isEmpty) this.#channels.delete(channel);
    },
  };

  #subscribeNow(shared: ChannelSubscriptions): void {
    if (!this.#link) {
      if (this.state === "idle") this.#connect();
      return;
    }
    // A subscription that joins from an earlier position: the gateway has one for each channel of a connection.
    if (shared.id) this.#link.unsubscribe(this.#nextId(), shared.channel);
    shared.suspend(this.#nextId());
    this.#link.subscribe(shared.id, shared.channel);
  }

  #request(command: Frame): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#isTerminal()) return reject(this.#error ?? new LastmileError("closed"));
      const isFull = this.#pending.size >= MAX_PENDING_REPLIES;
      if (isFull) return reject(new LastmileError("rate_limited", undefined, true));
      const id = this.#nextId();
      const isSent = !!this.#link;
      command = { ...command, id };
      this.#pending.set(id, { command, isSent, settle: (error, answer) => (error ? reject(error) : resolve(answer)) });
      this.#link?.send(command);
      if (this.state === "idle") this.#connect();
    });
  }

  #nextId(): string {
    return String(++this.#ids);
  }

  #isTerminal(): boolean {
    return this.state === "closed" || this.state === "failed";
  }

  async #connect(): Promise<void> {
    const attempt = ++this.#attempt;
    clearTimeout(this.#retryTimer);
    const sharesTabs = this.options.tabs && Tabs.areSupported();
    this.transport = sharesTabs ? "tabs" : this.#selector.current;
    this.#setState("connecting");
    if (this.#isUnreachable) {
      const reachable = await this.#checkReachable();
      if (attempt !== this.#attempt) return;
      if (!reachable) return this.#retry(protocol.errorFromClose(CONNECTION_LOST), this.#backoff.next());
    }
    let token: string | undefined;
    try {
      token = await this.#tokens.get();
      if (sharesTabs) await this.#joinTabs(token);
    } catch (error) {
      if (attempt !== this.#attempt) return;
      const known = error instanceof LastmileError ? error : new LastmileError("token", String(error), true);
      return known.temporary ? this.#retry(known, this.#backoff.next()) : this.#finish("failed", known);
    }
    if (attempt !== this.#attempt) return;
    this.#isReady = false;
    this.#openedAt = this.#lastActivity = Date.now();
    const { options } = this;
    const isCurrent = () => attempt === this.#attempt;
    const link = (this.#tabs?.openLink ?? OPEN_LINK[this.#selector.current])({
      url: this.url,
      token,
      credentials: options.credentials ?? "same-origin",
      fetch: this.#fetch,
      WebSocket: (options.WebSocket ?? globalThis.WebSocket) as typeof WebSocket | undefined,
      pollSecs: this.#timing.pollMs / 1000,
      resumeParams: (channel) => this.#channels.get(channel)?.resumeParams() ?? { channel },
      onFrame: (frame) => isCurrent() && this.#onFrame(frame),
      onActivity: () => isCurrent() && void (this.#lastActivity = Date.now()),
      onClose: (close) => isCurrent() && this.#onClose(close),
    });
    this.#link = link;
    this.#openTimer = setTimeout(() => this.#onClose(CONNECTION_LOST), this.#timing.openMs);
    for (const shared of this.#channels.values()) {
      if (shared.isWanted) this.#subscribeNow(shared);
    }
    for (const pending of this.#pending.values()) {
      pending.isSent = true;
      link.send(pending.command);
    }
  }

  #fetch: typeof fetch = (...request) => (this.options.fetch ?? fetch)(...request);

  async #checkReachable(): Promise<boolean> {
    const reachable = await isReachable(this.url, this.#fetch, this.#timing.openMs);
    this.#isUnreachable = !reachable;
    return reachable;
  }

  /** Joins the tabs of the same person: one connection carries one person's rights. */
  async #joinTabs(token: string | undefined): Promise<void> {
    const { url, options } = this;
    const principal = token ? principalOf(token) : await this.#sessionPrincipal();
    const name = `lastmile:${url}:${options.tabs}:${principal}`;
    if (this.#tabs?.name === name || this.#isTerminal()) return;
    this.#tabs?.close();
    this.#tabs = new Tabs(name, () => new Client(url, { ...options, tabs: false }, this.#tokens));
  }

  /** The person of the login's cookie, if the browser sends it. */
  async #sessionPrincipal(): Promise<string> {
    const { credentials = "same-origin" } = this.options;
    const isSameOrigin = new URL(this.url).origin === globalThis.location?.origin;
    if (credentials === "omit" || (credentials === "same-origin" && !isSameOrigin)) return "";
    const response = await this.#fetch(`${this.url}/v1/auth/session`, { credentials, cache: "no-store" });
    if (response.status >= 500) throw new LastmileError("session", `status ${response.status}`, true);
    const session = response.ok ? protocol.parse(await response.text()) : undefined;
    return JSON.stringify([session?.issuer, session?.principal]);
  }

  #onFrame(frame: Frame): void {
    this.#lastActivity = Date.now();
    const shared = frame.channel === undefined ? undefined : this.#channels.get(frame.channel);
    switch (frame.type) {
      case "welcome":
        return this.#onWelcome(frame);
      case "message":
        return shared?.onMessage(frame);
      case "subscribed":
        return shared?.onSubscribed(frame);
      case "unsubscribed":
        // Only an end by the gateway has a reason.
        if (shared && frame.reason) this.#onUnsubscribed(shared, frame);
        return;
      case "degraded":
      case "restored": {
        const { type } = frame;
        return shared?.forEach((subscription) => subscription.emit(type, undefined));
      }
      case "replied":
        if (!this.#pending.get(frame.id ?? "")?.command.answer) this.#settle(frame.id);
        return;
      case "answer":
        return this.#settle(frame.id, undefined, frame.data);
      case "refreshed":
        return this.#refreshBefore(frame.expires);
      case "error":
        return this.#onError(frame);
    }
  }

  #onWelcome({ ping_secs, expires }: Frame): void {
    if (this.#isReady) return;
    this.#isReady = true;
    this.#tokens.onAccepted();
    clearTimeout(this.#openTimer);
    this.#stableTimer = setTimeout(() => {
      this.#backoff.reset();
      if (!this.#tabs) this.#selector.recordSuccess();
    }, this.#timing.stableMs);
    this.#startLivenessCheck((ping_secs || 25) * 1000);
    this.#refreshBefore(expires);
    this.#setState("connected");
  }

  #onUnsubscribed(shared: ChannelSubscriptions, { code, reason }: Frame): void {
    const close: CloseInfo = { code: Number(code), reason: reason! };
    this.#channelCloseCode = close.code;
    shared.suspend();
    if (!protocol.isFinal(close.code)) return this.#resubscribeLater(shared);
    shared.forEach((subscription) => subscription.end(protocol.errorFromClose(close, `${shared.channel}: ${reason}`)));
  }

  #onError(frame: Frame): void {
    const error = protocol.errorFromFrame(frame);
    if (frame.id === undefined) return this.emit("error", error);
    this.#settle(frame.id, error);
    for (const shared of [...this.#channels.values()]) {
      if (shared.id !== frame.id) continue;
      shared.suspend();
      if (error.temporary) this.#resubscribeLater(shared);
      else shared.forEach((subscription) => subscription.end(error));
    }
  }

  /** The channel is temporarily unavailable; the connection is not affected. */
  #resubscribeLater(shared: ChannelSubscriptions): void {
    const attempt = this.#attempt;
    setTimeout(() => {
      const isWanted = this.#channels.get(shared.channel) === shared && shared.isWanted;
      if (attempt === this.#attempt && isWanted && !shared.id) this.#subscribeNow(shared);
    }, this.#backoff.next(1000));
  }

  #settle(id: string | undefined, error?: LastmileError, answer?: unknown): void {
    const pending = this.#pending.get(id ?? "");
    this.#pending.delete(id ?? "");
    pending?.settle(error, answer);
  }

  #onClose(close: CloseInfo): void {
    const { code } = close;
    const isAbnormalClose = code < 4000;
    const uptimeMs = Date.now() - this.#openedAt;
    const wasReady = this.#isReady;
    const error = protocol.errorFromClose(close);
    const isLastChannelEnd = code === this.#channelCloseCode;
    // Between tabs the leader's client asks for another token.
    const nextToken = code === protocol.CLOSE_UNAUTHENTICATED && !this.#tabs ? this.#tokens.onRefused() : undefined;
    if (code === protocol.CLOSE_TOKEN_EXPIRED) this.#tokens.drop();
    this.#closeLink();
    if (protocol.isFinal(code) && !isLastChannelEnd && !nextToken) return this.#finish("failed", error);
    if (!this.#channels.size && !this.#pending.size) return this.#setState("idle", { error });
    const isTokenExpired = wasReady && code === protocol.CLOSE_TOKEN_EXPIRED && uptimeMs > 1000;
    const reconnectNow = close.reconnectNow || isLastChannelEnd || isTokenExpired || nextToken === "now";
    if (!this.#tabs) {
      if (isAbnormalClose && !wasReady) return void this.#onTransportFailure(error, close.waitMs);
      if (isAbnormalClose && uptimeMs < this.#timing.stableMs) this.#selector.recordEarlyDisconnect();
      else this.#selector.recordDisconnect();
    }
    this.#retry(error, reconnectNow ? 0 : this.#backoff.next(close.waitMs));
  }

  /** Tries the next transport at once, unless the gateway cannot be reached by any. */
  async #onTransportFailure(error: LastmileError, waitMs: number | undefined): Promise<void> {
    const attempt = this.#attempt;
    const reachable = !this.#selector.hasAlternatives || (await this.#checkReachable());
    if (attempt !== this.#attempt) return;
    const isNext = reachable && this.#selector.recordFailure() && !waitMs;
    this.#retry(error, isNext ? 0 : this.#backoff.next(waitMs));
  }

  #retry(error: LastmileError, retryMs: number): void {
    this.#setState("waiting", { error, retryMs });
    if (this.state === "waiting") this.#retryTimer = setTimeout(() => this.#connect(), retryMs);
  }

  /** Closes the link and fails the replies that were sent over it. */
  #closeLink(): void {
    this.#attempt += 1;
    for (const timer of [this.#retryTimer, this.#openTimer, this.#stableTimer, this.#refreshTimer]) clearTimeout(timer);
    clearInterval(this.#livenessTimer);
    this.#link?.close();
    this.#link = undefined;
    this.#isReady = false;
    this.#channelCloseCode = 0;
    for (const shared of this.#channels.values()) shared.suspend();
    for (const [id, { isSent }] of this.#pending) {
      // Not sent again: the gateway may already have it.
      if (isSent) this.#settle(id, protocol.errorFromClose(CONNECTION_LOST));
    }
  }

  #finish(state: "failed" | "closed", error: LastmileError | undefined): void {
    this.#closeLink();
    this.#error = error;
    this.#setState(state, { error });
    for (const shared of [...this.#channels.values()]) shared.forEach((subscription) => subscription.end(error));
    for (const id of [...this.#pending.keys()]) this.#settle(id, error ?? new LastmileError("closed"));
  }

  #setState(state: State, more: Omit<ClientEvents["state"], "state" | "transport"> = {}): void {
    this.state = state;
    this.emit("state", { state, transport: this.transport, ...more });
  }

  /** Pings an idle connection and closes it if nothing arrives. */
  #startLivenessCheck(idleMs: number): void {
    const { pongMs } = this.#timing;
    let pingedAt = 0;
    this.#livenessTimer = setInterval(() => {
      const now = Date.now();
      if (this.#lastActivity >= pingedAt) pingedAt = 0;
      if (!pingedAt && now - this.#lastActivity >= idleMs) {
        pingedAt = now;
        this.#link?.send({ type: "ping", id: this.#nextId() });
      } else if (pingedAt && now - pingedAt >= pongMs) {
        this.#onClose({ code: protocol.CLOSE_ABNORMAL, reason: "ping_timeout" });
      }
    }, Math.min(idleMs, pongMs) / 4);
  }

  /** Refreshes the token when a tenth of its remaining time is left, at most a minute before it expires. */
  #refreshBefore(expires: string | undefined): void {
    clearTimeout(this.#refreshTimer);
    if (!expires || !this.#tokens.canRefresh || this.#tabs) return;
    const leftMs = Date.parse(expires) - Date.now();
    const inMs = leftMs - Math.min(60_000, leftMs / 10);
    // The clock is wrong or the token is not newer: the gateway closes the connection when the token expires.
    if (!(inMs > 500)) return;
    const attempt = this.#attempt;
    this.#refreshTimer = setTimeout(async () => {
      if (inMs > MAX_TIMER_MS) return this.#refreshBefore(expires);
      try {
        const fresh = await this.#tokens.fetch();
        if (attempt === this.#attempt) this.#link?.send({ type: "refresh", id: this.#nextId(), token: fresh });
      } catch (error) {
        if (attempt === this.#attempt) this.emit("error", new LastmileError("token", String(error), true));
      }
    }, Math.min(inMs, MAX_TIMER_MS));
  }

  /** Reconnects without the rest of the delay, or checks the connection with a ping. */
  #onWake(): void {
    if (this.state === "waiting") this.#connect();
    else if (this.state === "connected") this.#link?.send({ type: "ping", id: this.#nextId() });
  }
}

type Timer = ReturnType<typeof setTimeout> | undefined;
