// One subscription: delivers each publication once and in order, and reports every gap.

import { Emitter } from "./emitter.js";
import {
  LastmileError, publicationFromFrame, type Frame, type Position, type Publication,
} from "./protocol.js";

export interface SubscribeOptions {
  /** Start after this position. */
  since?: Position;
  /** Start with this many of the newest publications. */
  backlog?: number;
  /** Publications buffered for the iterator. Default 1000 */
  buffer?: number;
  /** With a full buffer `"pause"` (default) unsubscribes until half of it was read, then resumes from there with the
   * publications that the gateway still has. `"drop_oldest"` drops the oldest ones. Every loss is a `gap`. */
  overflow?: "pause" | "drop_oldest";
}

/** Publications that this subscription lost. */
export interface Gap {
  /** No longer in the gateway's backlog, skipped by the gateway for a slow reader, or dropped from the full buffer. */
  reason: "history_lost" | "skipped" | "overflow";
  /** Position of the last publication before the gap, as far as it is known. */
  after: Position;
}

export interface SubscriptionEvents<T> {
  message: Publication<T>;
  /** Subscribed, at first and after each reconnect. `recovered`: no publication is missing. */
  subscribed: Position & { recovered: boolean };
  gap: Gap;
  /** The gateway's node is cut off from the others: publications are delayed until `restored` or `subscribed`. */
  degraded: undefined;
  /** Delayed publications have arrived and delivery is live again. */
  restored: undefined;
  /** Ended for good. Without an error: by `unsubscribe` or `close`. */
  ended: LastmileError | undefined;
}

/** The client, as a subscription uses it. */
export interface SubscriptionOwner {
  /** Continues after a pause. */
  resume(subscription: Subscription<any>): void;
  pause(subscription: Subscription<any>): void;
  remove(subscription: Subscription<any>): void;
}

export class Subscription<T = unknown> extends Emitter<SubscriptionEvents<T>> implements AsyncIterable<Publication<T>> {
  /** Position of the last publication that arrived. */
  position: Position | undefined;
  /** @internal Takes no publications until the iterator has read half of the buffer. */
  isPaused = false;

  #isActive = false;
  #isEnded = false;
  #error: LastmileError | undefined;
  #isIterated = false;
  #buffer: Publication<T>[] = [];
  #pendingRead: { resolve(result: IteratorResult<Publication<T>>): void; reject(error: unknown): void } | undefined;
  /** Position of the last reported gap: the next publication may skip offsets without another one. */
  #gapReportedAt: Position | undefined;

  /** @internal */
  constructor(readonly channel: string, private owner: SubscriptionOwner, /** @internal */ readonly options: SubscribeOptions) {
    super();
    this.position = options.since;
  }

  /** Ends the subscription. */
  unsubscribe(): void {
    if (this.#isEnded) return;
    this.#buffer = [];
    this.end();
  }

  /** Iterates over publications. Leaving the loop unsubscribes; an end with an error throws it. */
  [Symbol.asyncIterator](): AsyncIterator<Publication<T>> {
    if (this.#isIterated) throw new LastmileError("iterated", "a subscription has one iterator");
    this.#isIterated = true;
    return {
      next: () => this.#next(),
      return: async () => {
        this.unsubscribe();
        return { done: true, value: undefined };
      },
    };
  }

  #next(): Promise<IteratorResult<Publication<T>>> {
    const value = this.#buffer.shift();
    if (value) {
      if (this.isPaused && this.#buffer.length <= this.#limit / 2) {
        this.isPaused = false;
        this.owner.resume(this);
      }
      return Promise.resolve({ done: false, value });
    }
    if (this.#error) {
      const error = this.#error;
      this.#error = undefined;
      return Promise.reject(error);
    }
    if (this.#isEnded) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve, reject) => (this.#pendingRead = { resolve, reject }));
  }

  get #limit(): number {
    return this.options.buffer ?? 1000;
  }

  /** @internal Its position; at first as far before the channel's newest publication as the backlog reaches. */
  startBefore(newest: Position): Position {
    const { backlog = 0 } = this.options;
    return (this.position ??= { ...newest, offset: Math.max(0, newest.offset - backlog) });
  }

  /** @internal Ignores messages until the next `subscribed`. */
  suspend(): void {
    this.#isActive = false;
  }

  /** @internal */
  onSubscribed({ epoch, offset, recovered }: Frame): void {
    if (this.#isEnded) return;
    const current: Position = { epoch: epoch!, offset: offset! };
    const previous = this.position;
    // Another subscription of the channel may have resumed in an epoch that this one has not seen.
    let isComplete = recovered === true && (!previous || previous.epoch === epoch);
    this.#isActive = true;
    if (!previous) {
      // A connection that breaks before the backlog arrives then requests it again.
      this.startBefore(current);
      if (!isComplete) this.#gapReportedAt = current;
    } else if (!isComplete) {
      const isSameEpoch = previous.epoch === current.epoch;
      // A client with the newest publication misses nothing, even if the gateway kept none.
      isComplete = isSameEpoch && current.offset <= previous.offset;
      const reported = this.#gapReportedAt;
      this.#gapReportedAt = isComplete ? undefined : current;
      if (!isSameEpoch) this.position = { ...current, offset: 0 };
      const isNewGap = !reported || reported.epoch !== current.epoch || reported.offset !== current.offset;
      if (!isComplete && isNewGap) this.emit("gap", { reason: "history_lost", after: previous });
    }
    this.emit("subscribed", { ...current, recovered: isComplete });
  }

  /** @internal */
  onMessage(frame: Frame): void {
    if (!this.#isActive || this.#isEnded) return;
    const previous = this.position!;
    const isSameEpoch = previous.epoch === frame.epoch;
    if (isSameEpoch && frame.offset! <= previous.offset) return;
    const isNext = isSameEpoch && frame.offset === previous.offset + 1;
    this.position = { epoch: frame.epoch!, offset: frame.offset! };
    if (!isNext && !this.#gapReportedAt) {
      this.emit("gap", { reason: isSameEpoch ? "skipped" : "history_lost", after: previous });
    }
    this.#gapReportedAt = undefined;
    this.#deliver(publicationFromFrame(frame) as Publication<T>);
  }

  #deliver(publication: Publication<T>): void {
    const hasListener = this.has("message");
    this.emit("message", publication);
    // Without an iterator nothing reads the buffer.
    if (this.#isEnded || (hasListener && !this.#isIterated)) return;
    const pendingRead = this.#pendingRead;
    if (pendingRead) {
      this.#pendingRead = undefined;
      return pendingRead.resolve({ done: false, value: publication });
    }
    this.#buffer.push(publication);
    if (this.#buffer.length < this.#limit) return;
    if (this.options.overflow !== "drop_oldest") {
      this.isPaused = true;
      this.suspend();
      this.owner.pause(this);
    } else if (this.#buffer.length > this.#limit) {
      const { epoch, offset } = this.#buffer.shift()!;
      this.emit("gap", { reason: "overflow", after: { epoch, offset: offset - 1 } });
    }
  }

  /** @internal Ends the subscription for good; buffered publications can still be read. */
  end(error?: LastmileError): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#isActive = false;
    this.#error = error;
    this.owner.remove(this);
    const pendingRead = this.#pendingRead;
    this.#pendingRead = undefined;
    if (pendingRead) {
      this.#error = undefined;
      if (error) pendingRead.reject(error);
      else pendingRead.resolve({ done: true, value: undefined });
    }
    this.emit("ended", error);
  }
}
