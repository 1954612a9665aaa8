// One channel as its listener sees it: each publication once, in order, and every loss told.

import { Emitter } from "./emitter.js";
import { LastmileError, publicationFromFrame, type Frame, type Position, type Publication, type ResumeParams } from "./protocol.js";

export interface SubscribeOptions {
  /** Begin behind this position. */
  since?: Position;
  /** Begin with the newest so many. */
  backlog?: number;
  /** Publications that may wait for the iterator; 1000 if not said. */
  buffer?: number;
  /** When so many wait: `"pause"` (if not said) stops listening until half of them are taken and then goes on from
   * there, with what the gateway still has; `"drop_oldest"` lets the oldest go. Every loss is a `gap`. */
  overflow?: "pause" | "drop_oldest";
}

/** Publications that this listener does not get. */
export interface Gap {
  /** Gone by in the gateway, left out for a slow reader, or dropped here because the iterator was slow. */
  reason: "history_lost" | "skipped" | "overflow";
  /** The last one before, as far as it is known. */
  after: Position;
}

export interface SubscriptionEvents<T> {
  message: Publication<T>;
  /** The gateway listens for us, at first and after each loss of the connection. `recovered`: nothing is missing. */
  subscribed: Position & { recovered: boolean };
  gap: Gap;
  /** The gateway's node is cut off from the others: what is published comes later. Until `restored` or `subscribed`. */
  degraded: undefined;
  /** Everything came, and it goes on. */
  restored: undefined;
  /** It is over, for good. Without an error: by `unsubscribe` or `close`. */
  ended: LastmileError | undefined;
}

/** Who carries out what a subscription wants. */
export interface SubscriptionOwner {
  subscribe(subscription: Subscription<any>): void;
  unsubscribe(subscription: Subscription<any>): void;
  remove(subscription: Subscription<any>): void;
}

export class Subscription<T = unknown> extends Emitter<SubscriptionEvents<T>> implements AsyncIterable<Publication<T>> {
  /** The last publication that arrived; everything behind it is still to come. */
  position: Position | undefined;
  /** @internal The `subscribe` command that is to be answered. */
  id = "";
  /** @internal Why it waits before it subscribes again. */
  isPaused = false;

  #isActive = false;
  #isEnded = false;
  #error: LastmileError | undefined;
  #isIterated = false;
  #buffer: Publication<T>[] = [];
  #pendingRead: { resolve(result: IteratorResult<Publication<T>>): void; reject(error: unknown): void } | undefined;
  /** Where a gap was told: what follows may skip offsets. */
  #gapReportedAt: Position | undefined;

  /** @internal */
  constructor(readonly channel: string, private owner: SubscriptionOwner, private options: SubscribeOptions) {
    super();
    this.position = options.since;
  }

  /** Listens no more. */
  unsubscribe(): void {
    if (this.#isEnded) return;
    this.#buffer = [];
    this.end();
    this.owner.unsubscribe(this);
  }

  /** Publications as they come. Leaving the loop unsubscribes; an end with an error throws it. */
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
        this.owner.subscribe(this);
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

  /** @internal */
  resumeParams(): ResumeParams {
    const { channel, position, options } = this;
    return position ? { channel, since: position } : { channel, backlog: options.backlog };
  }

  /** @internal The connection is gone, or another answer is waited for. */
  suspend(id = ""): void {
    this.#isActive = false;
    this.id = id;
  }

  /** @internal */
  onSubscribed({ id, epoch, offset, recovered }: Frame): void {
    if (id === undefined ? !this.#isActive : id !== this.id) return;
    const current: Position = { epoch: epoch!, offset: offset! };
    const previous = this.position;
    let isComplete = recovered === true;
    this.#isActive = true;
    if (!previous) {
      const { backlog } = this.options;
      // If nothing of the backlog arrives, the next connection asks for it again.
      this.position = backlog ? { ...current, offset: Math.max(0, current.offset - backlog) } : current;
      if (!isComplete) this.#gapReportedAt = current;
    } else if (!isComplete) {
      const isSameEpoch = previous.epoch === current.epoch;
      // Who has the newest one misses nothing, whatever the gateway kept.
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
    if (!isNext && !this.#gapReportedAt) this.emit("gap", { reason: isSameEpoch ? "skipped" : "history_lost", after: previous });
    this.#gapReportedAt = undefined;
    this.#deliver(publicationFromFrame(frame) as Publication<T>);
  }

  #deliver(publication: Publication<T>): void {
    const hasListener = this.has("message");
    this.emit("message", publication);
    // Who only listens to events needs no buffer.
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
      this.owner.unsubscribe(this);
    } else if (this.#buffer.length > this.#limit) {
      const { epoch, offset } = this.#buffer.shift()!;
      this.emit("gap", { reason: "overflow", after: { epoch, offset: offset - 1 } });
    }
  }

  /** @internal Over for good; what was buffered can still be read. */
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
