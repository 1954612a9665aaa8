// One channel as its listener sees it: each publication once, in order, and every loss told.

import { Emitter } from "./emitter.js";
import { LastmileError, publicationOf, type Frame, type Position, type Publication, type Wish } from "./protocol.js";

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
export interface Carrier {
  begin(subscription: Subscription<any>): void;
  stop(subscription: Subscription<any>): void;
  forget(subscription: Subscription<any>): void;
}

export class Subscription<T = unknown> extends Emitter<SubscriptionEvents<T>> implements AsyncIterable<Publication<T>> {
  /** The last publication that arrived; everything behind it is still to come. */
  position: Position | undefined;
  /** @internal The `subscribe` command that is to be answered. */
  id = "";
  /** @internal Why it waits before it subscribes again. */
  isPaused = false;

  #isActive = false;
  #isOver = false;
  #error: LastmileError | undefined;
  #isIterated = false;
  #buffer: Publication<T>[] = [];
  #reader: { resolve(result: IteratorResult<Publication<T>>): void; reject(error: unknown): void } | undefined;
  /** Where a gap was told: what follows may skip offsets. */
  #toldAt: Position | undefined;

  /** @internal */
  constructor(readonly channel: string, private carrier: Carrier, private options: SubscribeOptions) {
    super();
    this.position = options.since;
  }

  /** Listens no more. */
  unsubscribe(): void {
    if (this.#isOver) return;
    this.#buffer = [];
    this.end();
    this.carrier.stop(this);
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
        this.carrier.begin(this);
      }
      return Promise.resolve({ done: false, value });
    }
    if (this.#error) {
      const error = this.#error;
      this.#error = undefined;
      return Promise.reject(error);
    }
    if (this.#isOver) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve, reject) => (this.#reader = { resolve, reject }));
  }

  get #limit(): number {
    return this.options.buffer ?? 1000;
  }

  /** @internal */
  wish(): Wish {
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
    const here: Position = { epoch: epoch!, offset: offset! };
    const before = this.position;
    let isWhole = recovered === true;
    this.#isActive = true;
    if (!before) {
      const { backlog } = this.options;
      // If nothing of the backlog arrives, the next connection asks for it again.
      this.position = backlog ? { ...here, offset: Math.max(0, here.offset - backlog) } : here;
      if (!isWhole) this.#toldAt = here;
    } else if (!isWhole) {
      const isSame = before.epoch === here.epoch;
      // Who has the newest one misses nothing, whatever the gateway kept.
      isWhole = isSame && here.offset <= before.offset;
      const told = this.#toldAt;
      this.#toldAt = isWhole ? undefined : here;
      if (!isSame) this.position = { ...here, offset: 0 };
      const isNews = !told || told.epoch !== here.epoch || told.offset !== here.offset;
      if (!isWhole && isNews) this.emit("gap", { reason: "history_lost", after: before });
    }
    this.emit("subscribed", { ...here, recovered: isWhole });
  }

  /** @internal */
  onMessage(frame: Frame): void {
    if (!this.#isActive || this.#isOver) return;
    const before = this.position!;
    const isSame = before.epoch === frame.epoch;
    if (isSame && frame.offset! <= before.offset) return;
    const isNext = isSame && frame.offset === before.offset + 1;
    this.position = { epoch: frame.epoch!, offset: frame.offset! };
    if (!isNext && !this.#toldAt) this.emit("gap", { reason: isSame ? "skipped" : "history_lost", after: before });
    this.#toldAt = undefined;
    this.#deliver(publicationOf(frame) as Publication<T>);
  }

  #deliver(publication: Publication<T>): void {
    const isHeard = this.has("message");
    this.emit("message", publication);
    // Who only listens to events needs no buffer.
    if (this.#isOver || (isHeard && !this.#isIterated)) return;
    const reader = this.#reader;
    if (reader) {
      this.#reader = undefined;
      return reader.resolve({ done: false, value: publication });
    }
    this.#buffer.push(publication);
    if (this.#buffer.length < this.#limit) return;
    if (this.options.overflow !== "drop_oldest") {
      this.isPaused = true;
      this.suspend();
      this.carrier.stop(this);
    } else if (this.#buffer.length > this.#limit) {
      const { epoch, offset } = this.#buffer.shift()!;
      this.emit("gap", { reason: "overflow", after: { epoch, offset: offset - 1 } });
    }
  }

  /** @internal Over for good; what was buffered can still be read. */
  end(error?: LastmileError): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#isActive = false;
    this.#error = error;
    this.carrier.forget(this);
    const reader = this.#reader;
    this.#reader = undefined;
    if (reader) {
      this.#error = undefined;
      if (error) reader.reject(error);
      else reader.resolve({ done: true, value: undefined });
    }
    this.emit("ended", error);
  }
}
