// Protocol types: frames, close codes, publications and the error class.

/** A position in a channel. Offsets rise by one within an epoch; a new epoch means that history was lost. */
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

/** Where a subscription starts: after a position, with the newest `backlog` publications, or with the next one. */
export interface ResumeParams {
  channel: string;
  since?: Position;
  backlog?: number;
}

/** A frame of the protocol. Members depend on `type`; frames of unknown types are ignored. */
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

/** Codes of the protocol's tables: problems, errors and close reasons. */
export type GatewayCode =
  | "already_subscribed" | "answer_timeout" | "channel_closed" | "channel_ended" | "channel_exists"
  | "channel_forbidden" | "channel_invalid" | "channel_unknown" | "connection_limit" | "cursor_invalid"
  | "data_limit" | "digest_mismatch" | "digest_missing" | "draining" | "engine_unavailable" | "forbidden"
  | "host_unknown" | "idempotency_mismatch" | "internal" | "invalid_utf8" | "issuer_unavailable" | "key_expired"
  | "key_unknown" | "lifespan_expired" | "limit_reached" | "login_expired" | "login_failed" | "login_refused"
  | "login_unavailable" | "malformed" | "message_limit" | "message_too_big" | "message_too_large" | "message_unknown"
  | "method_not_allowed" | "not_found" | "not_subscribed" | "origin_forbidden" | "peer_absent" | "peer_left"
  | "ping_timeout" | "protocol_error" | "publisher_absent" | "rate_limited" | "reply_unknown" | "revoked"
  | "session_too_large" | "signature_invalid" | "signature_missing" | "signature_replayed" | "signature_stale"
  | "slow_consumer" | "token_expired" | "unauthenticated" | "unknown_room" | "unsupported_data"
  | "unsupported_media_type" | "unsupported_protocol" | "upgrade_required";

/** Codes of the client itself. */
export type ClientCode =
  | "closed" | "connection_lost" | "invalid_url" | "iterated" | "room_closed" | "session" | "token" | "unsupported";

/** Newer gateways may have codes that this client does not list. */
export type ErrorCode = GatewayCode | ClientCode | (string & {});

/** The reason of a close or a refusal. */
export class LastmileError extends Error {
  override name = "LastmileError";
  constructor(
    readonly code: ErrorCode,
    message: string = code,
    /** Whether a retry may succeed. */
    readonly temporary = false,
    /** The close code or HTTP status, if there is one. */
    readonly status?: number,
  ) {
    super(message);
  }
}

/** Why a link was closed. */
export interface CloseInfo {
  /** A close code of the protocol, or `CLOSE_ABNORMAL` if the connection broke without one. */
  code: number;
  reason: string;
  /** The gateway's `Retry-After`, in milliseconds. */
  waitMs?: number;
  /** Reconnect without a delay: the close is not an error. */
  reconnectNow?: boolean;
}

export const CLOSE_ABNORMAL = 1006;
export const CLOSE_DRAINING = 4000;
export const CLOSE_TOKEN_EXPIRED = 4003;
export const CLOSE_RATE_LIMITED = 4004;
export const CLOSE_ENGINE_UNAVAILABLE = 4005;
export const CLOSE_ISSUER_UNAVAILABLE = 4006;
export const CLOSE_UNAUTHENTICATED = 4501;
export const CLOSE_FORBIDDEN = 4502;

/** The connection broke without a close frame. */
export const CONNECTION_LOST: CloseInfo = { code: CLOSE_ABNORMAL, reason: "connection_lost" };

/** Whether a close code forbids a reconnect. */
export const isFinal = (code: number) => code >= 4500 && code < 5000;

export const errorFromClose = ({ code, reason }: CloseInfo, message?: string) =>
  new LastmileError(reason || `closed_${code}`, message ?? (reason || `closed with ${code}`), !isFinal(code), code);

/** The error of an `error` frame. */
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

/** Decodes a JSON object; `undefined` for anything else. */
export function parse(text: unknown): Frame | undefined {
  try {
    const value = JSON.parse(text as string);
    return typeof value === "object" && value ? value : undefined;
  } catch {
    return undefined;
  }
}
