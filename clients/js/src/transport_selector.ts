// Selects the transport to try. The first one that works is stored for the origin for an hour.

import type { TransportName } from "./transports/link.js";

/** After this time the preferred transport is tried again: the client may be on another network by then. */
const PREFERENCE_TTL_MS = 3_600_000;

/** Used where `localStorage` is missing or denied. */
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

  get hasAlternatives(): boolean {
    return this.transports.length > 1;
  }

  /** The connection is stable. */
  recordSuccess(): void {
    this.#failures = this.#earlyDisconnects = 0;
    if (this.#storedIndex() === this.#index) return;
    const value = `${this.current} ${this.now() + PREFERENCE_TTL_MS}`;
    fallbackStorage.set(this.#key, value);
    try {
      localStorage.setItem(this.#key, value);
    } catch {
      // Missing or denied: `fallbackStorage` has it.
    }
  }

  /** The connection failed before its first frame. Returns whether to try the next transport without a delay. */
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

  /** The connection broke before it was stable: some proxies reset protocols that they do not know. */
  recordEarlyDisconnect(): void {
    this.#failures = 0;
    this.#earlyDisconnects += 1;
    if (this.#earlyDisconnects >= 2) {
      this.#earlyDisconnects = 0;
      this.#advance();
    }
  }

  /** A stable connection ended, or the gateway closed it. */
  recordDisconnect(): void {
    this.#failures = this.#earlyDisconnects = 0;
    // The stored choice may have expired.
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
      // Missing or denied: `fallbackStorage` has it.
    }
    const [name, expiresAt] = (value ?? "").split(" ");
    return Number(expiresAt) > this.now() ? Math.max(0, this.transports.indexOf(name as TransportName)) : 0;
  }
}
