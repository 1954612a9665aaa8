// All subscriptions of one channel: the connection subscribes to it once, from the earliest position among them.

import type { Frame, Position, ResumeParams } from "./protocol.js";
import type { Subscription } from "./subscription.js";

export class ChannelSubscriptions {
  /** Id of the `subscribe` command that awaits its result. */
  id = "";
  #members = new Set<Subscription<any>>();
  /** Newest position that the connection reported. Undefined while it is not subscribed. */
  #newest: Position | undefined;
  /** Start of the connection's subscription. */
  #requested: ResumeParams;

  /** `subscribe` and `unsubscribe` send the commands for the channel. */
  constructor(readonly channel: string, private subscribe: () => void, private unsubscribe: () => void) {
    this.#requested = { channel };
  }

  get isEmpty(): boolean {
    return !this.#members.size;
  }

  /** Whether a subscription takes publications now. */
  get isWanted(): boolean {
    return this.#wanting().length > 0;
  }

  /** Adds a subscription, or continues one that was paused. */
  add(member: Subscription<any>): void {
    const isFirst = this.#wanting().every((other) => other === member);
    this.#members.add(member);
    if (isFirst) this.subscribe();
    // Otherwise the result of the pending command admits it.
    else if (this.#newest) this.#admit(member, this.#newest);
  }

  /** Removes a subscription that has ended. */
  remove(member: Subscription<any>): void {
    this.#members.delete(member);
    this.release();
  }

  /** Unsubscribes when no subscription takes publications. */
  release(): void {
    if (this.isWanted || (!this.#newest && !this.id)) return;
    this.suspend();
    this.unsubscribe();
  }

  /** The connection is not subscribed: publications are ignored until the result of the command with this id. */
  suspend(id = ""): void {
    this.id = id;
    this.#newest = undefined;
    for (const member of this.#members) member.suspend();
  }

  resumeParams(): ResumeParams {
    const { channel } = this;
    let since: Position | undefined;
    let backlog: number | undefined;
    for (const { position, options } of this.#wanting()) {
      if (!position) backlog = Math.max(backlog ?? 0, options.backlog ?? 0) || undefined;
      else if (!since || (position.epoch === since.epoch && position.offset < since.offset)) since = position;
    }
    return (this.#requested = since ? { channel, since } : { channel, backlog });
  }

  onSubscribed(frame: Frame): void {
    if (frame.id === undefined ? !this.#newest : frame.id !== this.id) return;
    const { since, backlog = 0 } = this.#requested;
    const newest = (this.#newest = { epoch: frame.epoch!, offset: frame.offset! });
    const coveredFrom = since?.offset ?? newest.offset - backlog;
    let isCovered = true;
    for (const member of this.#wanting()) {
      // One that joined meanwhile, or that asks for a backlog beside a resumed position.
      if (since && member.options.backlog) member.startBefore(newest);
      const { position } = member;
      if (position && position.epoch === newest.epoch && position.offset < coveredFrom) isCovered = false;
      else member.onSubscribed(frame);
    }
    if (!isCovered) this.subscribe();
  }

  onMessage(frame: Frame): void {
    if (!this.#newest) return;
    this.#newest = { epoch: frame.epoch!, offset: frame.offset! };
    for (const member of [...this.#members]) member.onMessage(frame);
  }

  forEach(callback: (member: Subscription<any>) => void): void {
    [...this.#members].forEach(callback);
  }

  #wanting(): Subscription<any>[] {
    return [...this.#members].filter((member) => !member.isPaused);
  }

  /** Starts a subscription beside others, from its own position. */
  #admit(member: Subscription<any>, newest: Position): void {
    const { epoch, offset } = member.startBefore(newest);
    // The others ignore the publications that they already have.
    if (epoch !== newest.epoch || offset < newest.offset) return this.subscribe();
    // Deferred, so that the caller can add its listeners first.
    queueMicrotask(() => this.#newest && member.onSubscribed({ type: "subscribed", ...this.#newest, recovered: true }));
  }
}
