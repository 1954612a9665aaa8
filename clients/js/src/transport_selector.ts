// Which transport to try: the first that works, remembered for a while for the whole origin.

import type { TransportName } from "./transports/link.js";

/** After this a better transport gets another chance: the network may be another one. */
const MEMORY_MS = 3_600_000;

/** Where there is no storage of a browser. */
const memory = new Map<string, string>();

export class Chooser {
  #at = 0;
  #failures = 0;
  #cuts = 0;
  #key: string;

  constructor(private order: TransportName[], origin: string, private now: () => number = Date.now) {
    this.#key = `lastmile:transport:${origin}`;
    this.#at = this.#remembered();
  }

  get current(): TransportName {
    return this.order[this.#at]!;
  }

  /** It stayed up. */
  worked(): void {
    this.#failures = this.#cuts = 0;
    if (this.#remembered() === this.#at) return;
    const value = `${this.current} ${this.now() + MEMORY_MS}`;
    memory.set(this.#key, value);
    try {
      localStorage.setItem(this.#key, value);
    } catch {
      // No storage, or none for this page.
    }
  }

  /** It carried nothing. Gives whether there is another one to try at once. */
  failed(): boolean {
    this.#cuts = 0;
    this.#failures += 1;
    if (this.#failures < this.order.length) {
      this.#next();
      return true;
    }
    this.#failures = 0;
    this.#at = this.#remembered();
    return false;
  }

  /** It carried something and broke soon; some proxies cut what they do not know. */
  cut(): void {
    this.#failures = 0;
    this.#cuts += 1;
    if (this.#cuts >= 2) {
      this.#cuts = 0;
      this.#next();
    }
  }

  /** A connection that was well is over. */
  over(): void {
    this.#failures = this.#cuts = 0;
    // The memory may be too old by now.
    this.#at = this.#remembered();
  }

  #next(): void {
    this.#at = (this.#at + 1) % this.order.length;
  }

  #remembered(): number {
    let value = memory.get(this.#key);
    try {
      value = localStorage.getItem(this.#key) ?? value;
    } catch {
      // As above.
    }
    const [name, until] = (value ?? "").split(" ");
    return Number(until) > this.now() ? Math.max(0, this.order.indexOf(name as TransportName)) : 0;
  }
}
