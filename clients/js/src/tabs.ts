// One connection for all tabs of an origin. The tab that holds the Web Lock leads: its hub has the one real client, and
// every tab, the leader's own included, speaks the protocol's frames to the hub over a BroadcastChannel. When the
// leader goes, the lock passes on, every tab connects to the new hub, and each goes on behind its own position.

import type { Client } from "./client.js";
import { LastmileError, type Ended, type Frame, type Position, type Publication, type Wish } from "./protocol.js";
import type { Subscription } from "./subscription.js";
import type { Link, OpenLink } from "./transports/link.js";

/** What passes between tabs. Without `tab` a word is for everybody. */
interface Word {
  /** A tab's command to the hub. */
  command?: Frame;
  /** The hub's frame to tabs. */
  frame?: Frame;
  /** The hub's client is at its end. */
  ended?: Ended;
  /** A new hub is there. */
  isNew?: boolean;
  tab?: string;
}

export class Tabs {
  #tab = crypto.randomUUID();
  #stop = new AbortController();
  #hub: Hub | undefined;

  static areSupported(): boolean {
    return typeof BroadcastChannel === "function" && !!globalThis.navigator?.locks;
  }

  constructor(private name: string, newClient: () => Client) {
    const { signal } = this.#stop;
    // Held as long as this tab lives, so that the hub learns of its end.
    this.#hold(tabLock(name, this.#tab), () => {});
    this.#hold(name, () => (this.#hub = new Hub(name, newClient())));
    signal.addEventListener("abort", () => this.#hub?.close());
  }

  openLink: OpenLink = ({ wish, onFrame, onEnd }): Link => {
    const channel = new BroadcastChannel(this.name);
    const tab = this.#tab;
    const send = (command: Frame) => channel.postMessage({ tab, command } satisfies Word);
    channel.onmessage = ({ data }: MessageEvent<Word>) => {
      if (data.command || (data.tab && data.tab !== tab)) return;
      if (data.frame) onFrame(data.frame);
      if (data.isNew) onEnd({ code: 4000, reason: "leader_changed", isAtOnce: true });
      if (data.ended) onEnd(data.ended);
    };
    send({ type: "hello" });
    return {
      subscribe: (id, channel) => send({ type: "subscribe", id, ...wish(channel) }),
      unsubscribe: (id, channel) => send({ type: "unsubscribe", id, channel }),
      send,
      close: () => channel.close(),
    };
  };

  close(): void {
    this.#stop.abort();
  }

  #hold(name: string, held: () => void): void {
    const { signal } = this.#stop;
    const request = navigator.locks.request(name, { signal }, () => {
      held();
      return new Promise<void>((release) => {
        signal.addEventListener("abort", () => release());
        if (signal.aborted) release();
      });
    });
    request.catch(() => {
      // Closed while it waited.
    });
  }
}

const tabLock = (name: string, tab: string) => `${name}:${tab}`;

/** Publications of a channel that are kept for tabs that come. */
const MAX_RECENT = 256;

interface Shared {
  subscription: Subscription;
  tabs: Set<string>;
  /** Asked before the gateway answered. */
  waiting: [tab: string, command: Frame][];
  /** Everything behind this is in `recent` or still to come. */
  from?: Position;
  /** The newest that is known. */
  newest?: Position;
  recent: Frame[];
}

class Hub {
  #channel: BroadcastChannel;
  #shared = new Map<string, Shared>();
  #tabs = new Set<string>();

  constructor(private name: string, private client: Client) {
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }: MessageEvent<Word>) => {
      if (data.command && data.tab) this.#onCommand(data.tab, data.command);
    };
    client.on("state", ({ state, error }) => {
      if (state === "failed") this.#post({ ended: { code: error?.status ?? 4501, reason: error?.code ?? "" } });
    });
    this.#post({ isNew: true });
  }

  close(): void {
    this.client.close();
    this.#channel.close();
  }

  #post(word: Word): void {
    this.#channel.postMessage(word);
  }

  #onCommand(tab: string, command: Frame): void {
    const { type, id, channel } = command;
    if (!this.#tabs.has(tab)) this.#meet(tab);
    const answer = (frame: Frame) => this.#post({ tab, frame: { id, ...frame } });
    const refuse = ({ code, message, temporary }: LastmileError) => answer({ type: "error", code, message, temporary });
    if (type === "hello") return answer({ type: "welcome", ping_secs: 25 });
    if (type === "ping") return answer({ type: "pong" });
    if (type === "subscribe") return this.#subscribe(tab, command);
    if (type === "unsubscribe") return this.#leave(tab, channel!);
    if (type === "reply") {
      const { to, data } = command;
      if (command.answer) this.client.ask(channel!, to, data).then((data) => answer({ type: "answer", data }), refuse);
      else this.client.reply(channel!, to, data).then(() => answer({ type: "replied" }), refuse);
    }
  }

  #meet(tab: string): void {
    this.#tabs.add(tab);
    // Granted when the tab is gone, however it went.
    navigator.locks.request(tabLock(this.name, tab), () => {
      this.#tabs.delete(tab);
      for (const channel of [...this.#shared.keys()]) this.#leave(tab, channel);
    });
  }

  #leave(tab: string, channel: string): void {
    const shared = this.#shared.get(channel);
    if (!shared?.tabs.delete(tab)) return;
    shared.waiting = shared.waiting.filter(([other]) => other !== tab);
    if (shared.tabs.size) return;
    this.#shared.delete(channel);
    shared.subscription.unsubscribe();
  }

  #subscribe(tab: string, command: Frame): void {
    const channel = command.channel!;
    const { since, backlog } = command as Frame & Wish;
    const shared = this.#shared.get(channel);
    if (!shared) return this.#begin(tab, command, { channel, since, backlog }, new Set());
    shared.tabs.add(tab);
    const { from, newest } = shared;
    if (!from || !newest) return void shared.waiting.push([tab, command]);
    const start = since ?? (backlog ? { ...newest, offset: Math.max(0, newest.offset - backlog) } : newest);
    const isCovered = start.epoch === from.epoch && start.offset >= from.offset;
    if (!isCovered) {
      // Once more from further back: the other tabs pass over what they have.
      shared.subscription.unsubscribe();
      return this.#begin(tab, command, { channel, since: start }, shared.tabs);
    }
    this.#answer(tab, command, newest, !!(since ?? backlog));
    for (const frame of shared.recent) {
      if (frame.offset! > start.offset) this.#post({ tab, frame });
    }
  }

  #answer(tab: string, { id, channel }: Frame, place: Position, recovered: boolean): void {
    this.#post({ tab, frame: { type: "subscribed", id, channel, ...place, recovered } });
  }

  #begin(tab: string, command: Frame, { channel, ...start }: Wish, tabs: Set<string>): void {
    const subscription = this.client.subscribe(channel, start);
    const shared: Shared = { subscription, tabs: tabs.add(tab), waiting: [[tab, command]], recent: [] };
    this.#shared.set(channel, shared);
    subscription.on("subscribed", ({ epoch, offset, recovered }) => {
      const here = { epoch, offset };
      // A connection of the hub that came back without a loss is no news for tabs.
      if (!recovered || !shared.from) {
        shared.from = recovered ? subscription.position! : here;
        shared.recent = [];
        if (!shared.waiting.length) this.#post({ frame: { type: "subscribed", channel, ...here, recovered } });
      }
      shared.newest = newer(here, shared.newest);
      const [first, ...others] = shared.waiting;
      shared.waiting = [];
      if (first) this.#answer(first[0], first[1], here, recovered);
      others.forEach(([tab, command]) => this.#subscribe(tab, command));
    });
    subscription.on("message", (publication) => {
      const frame = frameOf(publication);
      const { epoch, offset } = publication;
      if (shared.newest?.epoch !== epoch) shared.recent = [];
      shared.newest = newer({ epoch, offset }, shared.newest);
      shared.recent.push(frame);
      const oldest = shared.recent.length > MAX_RECENT && shared.recent.shift();
      if (oldest) shared.from = { epoch, offset: Math.max(oldest.offset!, shared.from?.offset ?? 0) };
      this.#post({ frame });
    });
    subscription.on("ended", (error) => {
      if (this.#shared.get(channel) !== shared || !error) return;
      this.#shared.delete(channel);
      this.#post({ frame: { type: "unsubscribed", channel, reason: error.code, code: error.status ?? 4502 } });
    });
  }
}

const newer = (one: Position, other: Position | undefined): Position =>
  other && other.epoch === one.epoch && other.offset > one.offset ? other : one;

/** The frame that a publication came in; bytes stay bytes between tabs. */
function frameOf({ messageId, ...rest }: Publication): Frame {
  return { type: "message", message_id: messageId, ...rest };
}
