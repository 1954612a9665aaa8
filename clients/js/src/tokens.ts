// The application's token: kept until it nears its end or the gateway refuses it.

import type { TokenSource } from "./options.js";
import { LastmileError } from "./protocol.js";

/** Refusals of new tokens in a row before the client gives up: a token service may answer nonsense for a moment. */
const MAX_REFUSALS = 3;

export class Tokens {
  #cached: string | undefined;
  #fetchedAt = 0;
  /** Whether the token in use came from the cache. */
  #wasCached = false;
  #refusals = 0;

  constructor(private source: TokenSource | undefined, private timeoutMs: number) {}

  get canRefresh(): boolean {
    return typeof this.source === "function";
  }

  /** The token for the next connection. */
  async get(): Promise<string | undefined> {
    this.#wasCached = this.#isUsable();
    return this.#wasCached ? this.#cached : this.fetch();
  }

  /** A new token from the application. */
  async fetch(): Promise<string | undefined> {
    const { source } = this;
    if (typeof source !== "function") return source;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const timeout = new Promise<never>((_, reject) => {
      const error = new LastmileError("token", "the token function did not answer", true);
      timer = setTimeout(() => reject(error), this.timeoutMs);
    });
    try {
      this.#cached = await Promise.race([source(), timeout]);
      this.#fetchedAt = Date.now();
      return this.#cached;
    } finally {
      clearTimeout(timer);
    }
  }

  onAccepted(): void {
    this.#refusals = 0;
  }

  /** The gateway refused the token. Returns when to try another one: at once, after the backoff, or never. */
  onRefused(): "now" | "later" | undefined {
    if (!this.canRefresh) return undefined;
    this.drop();
    if (this.#wasCached) return "now";
    return ++this.#refusals < MAX_REFUSALS ? "later" : undefined;
  }

  drop(): void {
    this.#cached = undefined;
  }

  /** Not in the last tenth of its time, at most the last minute. A token without a readable end is kept. */
  #isUsable(): boolean {
    const { exp } = claims(this.#cached);
    const endsAt = typeof exp === "number" ? exp * 1000 : Infinity;
    const margin = Math.min(60_000, (endsAt - this.#fetchedAt) / 10);
    return this.#cached !== undefined && Date.now() < endsAt - margin;
  }
}

/** The person that a token names. Each token that cannot be read counts as another person. */
export function principalOf(token: string): string {
  const { iss, sub } = claims(token);
  return sub === undefined ? crypto.randomUUID() : JSON.stringify([iss, sub]);
}

/** The claims of a JWT, unverified: the gateway verifies them. */
function claims(token: string | undefined): { exp?: unknown; iss?: unknown; sub?: unknown } {
  try {
    const payload = token!.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/");
    // Text beyond ASCII stays undecoded: claims are only compared.
    return JSON.parse(atob(payload)) ?? {};
  } catch {
    return {};
  }
}
