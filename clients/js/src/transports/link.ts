// The interface of all transports: each is one connection that carries the protocol's frames.

import type { CloseInfo, Frame, ResumeParams } from "../protocol.js";

/** One connection, or a series of requests that acts as one. */
export interface Link {
  subscribe(id: string, channel: string): void;
  unsubscribe(id: string, channel: string): void;
  /** Any other command. */
  send(command: Frame): void;
  /** Closes the link without a call of `onClose`. */
  close(): void;
}

/** The parameters and callbacks of a link. */
export interface LinkContext {
  /** The gateway's URL without a trailing slash. */
  url: string;
  token: string | undefined;
  credentials: RequestCredentials;
  fetch: typeof fetch;
  WebSocket: typeof WebSocket | undefined;
  /** How long a poll waits for a publication. */
  pollSecs: number;
  /** Where a subscription of the channel starts now. */
  resumeParams(channel: string): ResumeParams;
  /** The first frame is `welcome`: it shows that the transport works. */
  onFrame(frame: Frame): void;
  /** Data arrived that is not a frame. */
  onActivity(): void;
  /** Called at most once, and not after `close`. */
  onClose(close: CloseInfo): void;
}

export type OpenLink = (context: LinkContext) => Link;

export type TransportName = "websocket" | "events" | "poll";
