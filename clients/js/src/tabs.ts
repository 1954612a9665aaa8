// Shares one connection between all tabs of an origin. The tab that holds the Web Lock is the leader and owns the real
// client. Every tab, the leader's own included, exchanges protocol frames with it over a BroadcastChannel. When the
// leader closes, another tab gets the lock; every tab connects to it and resumes from its own position.

import type { ClientEvents } from "./options.js";
import {
  CLOSE_DRAINING, CLOSE_FORBIDDEN, CLOSE_UNAUTHENTICATED,
  type CloseInfo, type Frame, type LastmileError, type Position, type Publication, type ResumeParams,
} from "./protocol.js";
import type { SubscribeOptions, Subscription } from "./subscription.js";
import type { Link, OpenLink } from "./transports/link.js";

/** The parts of a client that the leader uses. */
export interface UpstreamClient {
  subscribe(channel: string, options: SubscribeOptions): Subscription;
  reply(channel: string, to: string, data: unknown): Promise<void>;
  ask(channel: string, to: string, data: unknown): Promise<unknown>;
  on(name: "state", listener: (event: ClientEvents["state"]) => void): void;
  close(): void;
}

/** A message between tabs. Without `tab` it is for all of them. */
interface TabMessage {
  /** A command to the leader. */
  command?: Frame;
  /** A frame from the leader. */
  frame?: Frame;
  /** The leader's client failed. */
  close?: CloseInfo;
  /** A new leader has started. */
  isLeaderChange?: boolean;
  tab?: string;
}

export class Tabs {
  #tabId = crypto.randomUUID();
  #abort = new AbortController();
  #leader: TabLeader | undefined;

  static areSupported(): boolean {
    return typeof BroadcastChannel === "function" && !!globalThis.navigator?.locks;
  }

  constructor(readonly name: string, newClient: () => UpstreamClient) {
    const { signal } = this.#abort;
    // Held while this tab exists: the leader detects its end by getting this lock.
    this.#acquireLock(tabLock(name, this.#tabId), () => {});
    this.#acquireLock(name, () => (this.#leader = new TabLeader(name, newClient())));
    signal.addEventListener("abort", () => this.#leader?.close());
  }

  openLink: OpenLink = ({ resumeParams, onFrame, onClose }): Link => {
    const channel = new BroadcastChannel(this.name);
    const tab = this.#tabId;
    const send = (command: Frame) => channel.postMessage({ tab, command } satisfies TabMessage);
    channel.onmessage = ({ data }: MessageEvent<TabMessage>) => {
      if (data.command || (data.tab && data.tab !== tab)) return;
      if (data.frame) onFrame(data.frame);
      if (data.isLeaderChange) onClose({ code: CLOSE_DRAINING, reason: "leader_changed", reconnectNow: true });
      if (data.close) onClose(data.close);
    };
    send({ type: "hello" });
    return {
      subscribe: (id, channel) => send({ type: "subscribe", id, ...resumeParams(channel) }),
      unsubscribe: (id, channel) => send({ type: "unsubscribe", id, channel }),
      send,
      close: () => channel.close(),
    };
  };

  close(): void {
    this.#abort.abort();
  }

  #acquireLock(name: string, onAcquired: () => void): void {
    const { signal } = this.#abort;
    const request = navigator.locks.request(name, { signal }, () => {
      onAcquired();
      return new Promise<void>((release) => {
        signal.addEventListener("abort", () => release());
        if (signal.aborted) release();
      });
    });
    request.catch(() => {
      // Aborted by `close` while it waited.
    });
  }
}

const tabLock = (name: string, tab: string) => `${name}:${tab}`;

/** Publications kept for tabs that subscribe later, for each channel. */
const MAX_RECENT_PUBLICATIONS = 256;

interface SharedChannel {
  subscription: Subscription;
  tabs: Set<string>;
  /** Subscribe commands that arrived before the gateway's `subscribed`. */
  pending: [tab: string, command: Frame][];
  /** All publications after this position are in `recent` or still to arrive. */
  coveredFrom?: Position;
  /** Position of the newest known publication. */
  newest?: Position;
  recent: Frame[];
}

class TabLeader {
  #broadcast: BroadcastChannel;
  #channels = new Map<string, SharedChannel>();
  #tabs = new Set<string>();

  constructor(private name: string, private client: UpstreamClient) {
    this.#broadcast = new BroadcastChannel(name);
    this.#broadcast.onmessage = ({ data }: MessageEvent<TabMessage>) => {
      if (data.command && data.tab) this.#onCommand(data.tab, data.command);
    };
    client.on("state", ({ state, error }) => {
      if (state !== "failed") return;
      this.#post({ close: { code: error?.status ?? CLOSE_UNAUTHENTICATED, reason: error?.code ?? "" } });
    });
    this.#post({ isLeaderChange: true });
  }

  close(): void {
    this.client.close();
    this.#broadcast.close();
  }

  #post(message: TabMessage): void {
    this.#broadcast.postMessage(message);
  }

  #onCommand(tab: string, command: Frame): void {
    const { type, id, channel } = command;
    if (!this.#tabs.has(tab)) this.#registerTab(tab);
    const answer = (frame: Frame) => this.#post({ tab, frame: { id, ...frame } });
    const refuse = ({ code, message, temporary }: LastmileError) => answer({ type: "error", code, message, temporary });
    if (type === "hello") return answer({ type: "welcome", ping_secs: 25 });
    if (type === "ping") return answer({ type: "pong" });
    if (type === "subscribe") return this.#subscribe(tab, command);
    if (type === "unsubscribe") return this.#unsubscribe(tab, channel!);
    if (type === "reply") {
      const { to, data } = command;
      if (command.answer) this.client.ask(channel!, to, data).then((data) => answer({ type: "answer", data }), refuse);
      else this.client.reply(channel!, to, data).then(() => answer({ type: "replied" }), refuse);
    }
  }

  #registerTab(tab: string): void {
    this.#tabs.add(tab);
    // Granted when the tab is closed or has crashed.
    navigator.locks.request(tabLock(this.name, tab), () => {
      this.#tabs.delete(tab);
      for (const channel of [...this.#channels.keys()]) this.#unsubscribe(tab, channel);
    });
  }

  #unsubscribe(tab: string, channel: string): void {
    const shared = this.#channels.get(channel);
    if (!shared?.tabs.delete(tab)) return;
    shared.pending = shared.pending.filter(([other]) => other !== tab);
    if (shared.tabs.size) return;
    this.#channels.delete(channel);
    shared.subscription.unsubscribe();
  }

  #subscribe(tab: string, command: Frame): void {
    const channel = command.channel!;
    const { since, backlog } = command as Frame & ResumeParams;
    const shared = this.#channels.get(channel);
    if (!shared) return this.#subscribeUpstream(tab, command, { channel, since, backlog }, new Set());
    shared.tabs.add(tab);
    const { coveredFrom, newest } = shared;
    if (!coveredFrom || !newest) return void shared.pending.push([tab, command]);
    const start = since ?? (backlog ? { ...newest, offset: Math.max(0, newest.offset - backlog) } : newest);
    const isCovered = start.epoch === coveredFrom.epoch && start.offset >= coveredFrom.offset;
    if (!isCovered) {
      // Subscribe again from the earlier position: the other tabs ignore publications that they already have.
      shared.subscription.unsubscribe();
      return this.#subscribeUpstream(tab, command, { channel, since: start }, shared.tabs);
    }
    this.#answer(tab, command, newest, !!(since ?? backlog));
    for (const frame of shared.recent) {
      if (frame.offset! > start.offset) this.#post({ tab, frame });
    }
  }

  #answer(tab: string, { id, channel }: Frame, position: Position, recovered: boolean): void {
    this.#post({ tab, frame: { type: "subscribed", id, channel, ...position, recovered } });
  }

  #subscribeUpstream(tab: string, command: Frame, { channel, ...start }: ResumeParams, tabs: Set<string>): void {
    const subscription = this.client.subscribe(channel, start);
    const shared: SharedChannel = { subscription, tabs: tabs.add(tab), pending: [[tab, command]], recent: [] };
    this.#channels.set(channel, shared);
    subscription.on("subscribed", ({ epoch, offset, recovered }) => {
      const current = { epoch, offset };
      // Tabs are not notified of a reconnect without loss.
      if (!recovered || !shared.coveredFrom) {
        shared.coveredFrom = recovered ? subscription.position! : current;
        shared.recent = [];
        if (!shared.pending.length) this.#post({ frame: { type: "subscribed", channel, ...current, recovered } });
      }
      shared.newest = newer(current, shared.newest);
      const [first, ...others] = shared.pending;
      shared.pending = [];
      if (first) this.#answer(first[0], first[1], current, recovered);
      others.forEach(([tab, command]) => this.#subscribe(tab, command));
    });
    subscription.on("message", (publication) => {
      const frame = frameFromPublication(publication);
      const { epoch, offset } = publication;
      if (shared.newest?.epoch !== epoch) shared.recent = [];
      shared.newest = newer({ epoch, offset }, shared.newest);
      shared.recent.push(frame);
      const oldest = shared.recent.length > MAX_RECENT_PUBLICATIONS && shared.recent.shift();
      if (oldest) shared.coveredFrom = { epoch, offset: Math.max(oldest.offset!, shared.coveredFrom?.offset ?? 0) };
      this.#post({ frame });
    });
    subscription.on("ended", (error) => {
      if (this.#channels.get(channel) !== shared || !error) return;
      this.#channels.delete(channel);
      const code = error.status ?? CLOSE_FORBIDDEN;
      this.#post({ frame: { type: "unsubscribed", channel, reason: error.code, code } });
    });
  }
}

const newer = (one: Position, other: Position | undefined): Position =>
  other && other.epoch === one.epoch && other.offset > one.offset ? other : one;

/** The `message` frame of a publication. Bytes are passed between tabs as they are, without Base64. */
function frameFromPublication({ messageId, ...rest }: Publication): Frame {
  return { type: "message", message_id: messageId, ...rest };
}
