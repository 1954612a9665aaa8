// Reconnect delay: exponential backoff with full jitter, so that many clients do not reconnect at the same moment.

export class Backoff {
  #attempts = 0;

  constructor(private baseMs = 500, private capMs = 30_000, private random: () => number = Math.random) {}

  /** Milliseconds until the next attempt. `waitMs`, the gateway's `Retry-After`, is added to the random part. */
  next(waitMs = 0): number {
    const ceiling = Math.min(this.capMs, this.baseMs * 2 ** Math.min(this.#attempts++, 30));
    return waitMs + this.random() * ceiling;
  }

  reset(): void {
    this.#attempts = 0;
  }
}
