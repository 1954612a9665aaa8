// The words of the protocol: what is sent and got, how connections end, and the one type of error.

/** Where a publication stands. Offsets of a channel rise by one within an epoch; a new epoch means lost history. */
export interface Position {
  epoch: string;
  offset: number;
}

/** One item of a channel. */
export interface Publication<T = unknown> extends Position {
  channel: string;
  messageId: string;
  /** RFC 3339 with milliseconds. */
  time: string;
  publisher: string;
  /** The publisher's JSON, a string for text, a `Uint8Array` for anything else. */
  data: T;
}

/** From where a channel is wanted: behind a position, with its newest so many, or from now on. */
export interface ResumeParams {
  channel: string;
  since?: Position;
  backlog?: number;
}

/** A frame of the gateway. Members depend on `type`; unknown types are passed over. */
export interface Frame {
  type: string;
  id?: string;
  channel?: string;
  epoch?: string;
  offset?: number;
  recovered?: boolean;
  code?: string | number;
  reason?: string;
  message?: string;
  temporary?: boolean;
  [member: string]: any;
}

/** Why something ended or was refused. */
export class LastmileError extends Error {
  override name = "LastmileError";
  constructor(
    /** A name of the protocol's tables (`forbidden`, `channel_closed`, `token_expired`), or the client's own:
     * `closed`, `connection_lost`, `overflow`, `room_closed`, `unsupported`. */
    readonly code: string,
    message: string = code,
    /** Whether the same may work later. */
    readonly temporary = false,
    /** The close code or HTTP status, where there is one. */
    readonly status?: number,
  ) {
    super(message);
  }
}

/** How a link ended. */
export interface CloseInfo {
  /** A close code of the protocol; 1006 for a connection that just broke. */
  code: number;
  reason: string;
  /** How long the gateway asks to wait, in milliseconds. */
  waitMs?: number;
  /** Nothing is wrong: connect again without a wait. */
  reconnectNow?: boolean;
}

/** Connections that broke: no word of the gateway on why. */
export const CONNECTION_LOST: CloseInfo = { code: 1006, reason: "connection_lost" };

export const CLOSE_DRAINING = 4000;
export const PING_TIMEOUT = 4002;
export const CLOSE_TOKEN_EXPIRED = 4003;
export const CLOSE_UNAUTHENTICATED = 4501;

/** Whether a close code says not to come back. */
export const isFinal = (code: number) => code >= 4500 && code < 5000;

export const errorFromClose = ({ code, reason }: CloseInfo, message?: string) =>
  new LastmileError(reason || `closed_${code}`, message ?? (reason || `closed with ${code}`), !isFinal(code), code);

/** The error that an `error` frame stands for. */
export const errorFromFrame = (frame: Frame) =>
  new LastmileError(String(frame.code), frame.message, frame.temporary === true);

export function publicationFromFrame(frame: Frame): Publication {
  const { channel, message_id, epoch, offset, time, publisher, data, encoding } = frame;
  return {
    channel, epoch, offset, time, publisher,
    messageId: message_id,
    data: encoding === "base64" ? Uint8Array.from(atob(data), (c) => c.charCodeAt(0)) : data,
  } as Publication;
}

/** What a text holds if it is a JSON object. */
export function parse(text: unknown): Frame | undefined {
  try {
    const value = JSON.parse(text as string);
    return typeof value === "object" && value ? value : undefined;
  } catch {
    return undefined;
  }
}
