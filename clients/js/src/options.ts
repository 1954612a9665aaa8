// Options, states and events of the client.

import type { LastmileError } from "./protocol.js";
import type { TransportName } from "./transports/link.js";

/** A token, or a function that returns a new one. The client keeps it until it nears its end or is refused. */
export type TokenSource = string | (() => string | Promise<string>);

/** Durations in milliseconds. */
export interface Timing {
  /** Time for the token function, and for a transport's first frame. Default 8000 */
  openMs: number;
  /** A connection that lasts this long is stable: its transport is stored and the backoff reset. Default 5000 */
  stableMs: number;
  /** Time from a ping to the next data of the gateway. Default 10000 */
  pongMs: number;
  /** The first and the longest reconnect delay, of which a random part is taken. Defaults 500 and 30000 */
  backoffMs: number;
  backoffMaxMs: number;
  /** How long a poll waits for a publication. Default 25000 */
  pollMs: number;
}

export interface ClientOptions {
  token?: TokenSource;
  /** `"include"` sends the login's cookie to a gateway of another origin. */
  credentials?: RequestCredentials;
  /** Transports in order of preference. Default `["websocket", "events", "poll"]` */
  transports?: TransportName[];
  /** For runtimes without a global one (Node 20: package `ws`). Without any, server-sent events are used. */
  WebSocket?: unknown;
  fetch?: typeof fetch;
  /** One connection for all tabs of this origin with the same user; a name separates groups of tabs. */
  tabs?: boolean | string;
  timing?: Partial<Timing>;
}

export type State = "idle" | "connecting" | "connected" | "waiting" | "failed" | "closed";

export interface ClientEvents {
  state: {
    state: State;
    transport?: TransportName | "tabs";
    /** Why the last connection ended. */
    error?: LastmileError;
    /** Delay before the next attempt. */
    retryMs?: number;
  };
  /** An error that does not end the connection: a token could not be refreshed. */
  error: LastmileError;
}
