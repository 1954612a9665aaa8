// What the transports have in common: each looks to the client like one connection that speaks the protocol's frames.

import type { CloseInfo, Frame, ResumeParams } from "../protocol.js";

/** One connection, or what stands for it, from its opening to its end. */
export interface Link {
  subscribe(id: string, channel: string): void;
  unsubscribe(id: string, channel: string): void;
  /** Any other command. */
  send(command: Frame): void;
  /** Ends it without a word to the client. */
  close(): void;
}

/** What a link needs and whom it tells. */
export interface LinkContext {
  /** The gateway's URL without a slash at the end. */
  url: string;
  token: string | undefined;
  credentials: RequestCredentials;
  fetch: typeof fetch;
  WebSocket: typeof WebSocket | undefined;
  /** Seconds that a poll may wait. */
  pollSecs: number;
  /** From where a channel is wanted as of now. */
  resumeParams(channel: string): ResumeParams;
  /** `welcome` is the first frame, and says that the transport carries something. */
  onFrame(frame: Frame): void;
  /** Something arrived that is no frame. */
  onActivity(): void;
  /** Called at most once, and not after `close`. */
  onClose(close: CloseInfo): void;
}

export type OpenLink = (context: LinkContext) => Link;

export type TransportName = "websocket" | "events" | "poll";
