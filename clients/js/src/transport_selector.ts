// Which transport to try: the first that works, remembered for a while for the whole origin.

import type { TransportName } from "./transports/link.js";

/** After this a better transport gets another chance: the network may be another one. */
const PREFERENCE_TTL_MS = 3_600_000;

/** Where there is no storage of a browser. */
const fallbackStorage = new Map<string, string>();

export class TransportSelector {
  #index = 0;
  #failures = 0;
  #earlyDisconnects = 0;
  #key: string;

  constructor(private transports: TransportName[], origin: string, private now: () => number = Date.now) {
    this.#key = `lastmile:transport:${origin}`;
    this.#index = this.#storedIndex();
  }

  get current(): TransportName {
    return this.transports[this.#index]!;
  }

  /** It stayed up. */
  recordSuccess(): void {
    this.#failures = this.#earlyDisconnects = 0;
    if (this.#storedIndex() === this.#index) return;
    const value = `${this.current} ${this.now() + PREFERENCE_TTL_MS}`;
    fallbackStorage.set(this.#key, value);
    try {
      localStorage.setItem(this.#key, value);
    } catch {
      // No storage, or none for this page.
    }
  }

  /** It carried nothing. Gives whether there is another one to try at once. */
  recordFailure(): boolean {
    this.#earlyDisconnects = 0;
    this.#failures += 1;
    if (this.#failures < this.transports.length) {
      this.#advance();
      return true;
    }
    this.#failures = 0;
    this.#index = this.#storedIndex();
    return false;
  }

  /** It carried something and broke soon; some proxies cut what they do not know. */
  recordEarlyDisconnect(): void {
    this.#failures = 0;
    this.#earlyDisconnects += 1;
    if (this.#earlyDisconnects >= 2) {
      this.#earlyDisconnects = 0;
      this.#advance();
    }
  }

  /** A connection that was well is over. */
  recordDisconnect(): void {
    this.#failures = this.#earlyDisconnects = 0;
    // The memory may be too old by now.
    this.#index = this.#storedIndex();
  }

  #advance(): void {
    this.#index = (this.#index + 1) % this.transports.length;
  }

  #storedIndex(): number {
    let value = fallbackStorage.get(this.#key);
    try {
      value = localStorage.getItem(this.#key) ?? value;
    } catch {
      // As above.
    }
    const [name, expiresAt] = (value ?? "").split(" ");
    return Number(expiresAt) > this.now() ? Math.max(0, this.transports.indexOf(name as TransportName)) : 0;
  }
}
