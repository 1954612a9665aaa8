// How long to wait before the next try: exponential with full jitter, so that many clients do not come in one wave.

export class Backoff {
  #tries = 0;

  constructor(private baseMs = 500, private capMs = 30_000, private random: () => number = Math.random) {}

  /** Milliseconds until the next try; what the gateway asks for comes on top. */
  next(waitMs = 0): number {
    const ceiling = Math.min(this.capMs, this.baseMs * 2 ** Math.min(this.#tries++, 30));
    return waitMs + this.random() * ceiling;
  }

  reset(): void {
    this.#tries = 0;
  }
}
