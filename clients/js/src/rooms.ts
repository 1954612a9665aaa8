// Rooms: peers exchange messages through the gateway. A peer that reconnects gets its seat back.

import { Backoff } from "./backoff.js";
import { Emitter } from "./emitter.js";
import { gatewayUrl } from "./gateway_url.js";
import type { Timing } from "./options.js";
import {
  CONNECTION_LOST, errorFromClose, errorFromFrame, isFinal, LastmileError, parse, type Frame,
} from "./protocol.js";

const ROOM_SUBPROTOCOL = "lastmile.pair.v1";

/** The gateway's data about a peer. */
export interface Sender {
  city?: string;
  country?: string;
  region?: string;
  /** Its address. */
  remote?: string;
  /** Its `User-Agent`. */
  ua?: string;
}

export interface Peer {
  peer: string;
  /** Disconnected; its seat is reserved. */
  away?: boolean;
  sender: Sender;
}

export interface RoomMessage<T = unknown> {
  data: T;
  /** Sequence number of the message in the room. */
  seq: number;
  from: string;
  sender: Sender;
}

export interface RoomEvents {
  message: RoomMessage;
  peer_joined: Peer & { resumed?: boolean };
  peer_left: { peer: string; reason: "left" | "away" | "timeout" };
  /** The seat was resumed. `recovered` is false if messages are missing. */
  resumed: { recovered: boolean };
  state: { state: "connected" | "waiting" | "closed"; error?: LastmileError };
  /** Ended for good. Without an error: by `leave` or `end`. */
  closed: LastmileError | undefined;
}

export interface RoomOptions {
  /** For runtimes without a global one (Node 20: package `ws`). */
  WebSocket?: unknown;
  timing?: Partial<Pick<Timing, "openMs" | "backoffMs" | "backoffMaxMs">>;
}

export interface OpenOptions extends RoomOptions {
  maxSeats?: number;
  /** Also creates a short code that a person can read out. */
  code?: "digits" | "words";
  /** For gateways that open rooms for authenticated users only. */
  token?: string;
}

/** The credential to join: the room and its secret, or a short code. */
export type Invitation = { room: string; secret: string } | { code: string };

/** Opens a room and takes its first seat. */
export function openRoom(url: string | URL, { maxSeats, code, token, ...options }: OpenOptions = {}): Promise<Room> {
  return new Room(String(url), options).start("", { type: "open", max_seats: maxSeats, code, token });
}

/** Joins a room and takes a seat. */
export function joinRoom(url: string | URL, invitation: Invitation, options: RoomOptions = {}): Promise<Room> {
  const room = new Room(String(url), options);
  if ("code" in invitation) return room.start("", { type: "join", code: invitation.code });
  return room.start(invitation.room, { type: "join", secret: invitation.secret });
}

interface PendingSend {
  data: unknown;
  /** Id of the ping sent after the message: its pong confirms that the gateway accepted the message. */
  pingId?: string;
  resolve(): void;
  reject(error: LastmileError): void;
}

/** Messages that the gateway has not confirmed. */
const MAX_PENDING_SENDS = 100;

export class Room extends Emitter<RoomEvents> {
  room = "";
  /** Id of this peer. */
  peer = "";
  peers = new Map<string, Peer>();
  expires: string | undefined;
  /** Secret to join the room; only the peer that opened it has one. */
  joinSecret: string | undefined;
  link: string | undefined;
  code: string | undefined;
  codeSecs: number | undefined;

  #url: string;
  #Socket: typeof WebSocket;
  #socket: WebSocket | undefined;
  #backoff: Backoff;
  #openMs: number;
  #resumeToken = "";
  #lastSeq = 0;
  #ids = 0;
  #isJoined = false;
  #isClosed = false;
  #pendingSends = new Map<string, PendingSend>();
  #timers: ReturnType<typeof setTimeout>[] = [];
  #joinPromise: { resolve(room: Room): void; reject(error: LastmileError): void } | undefined;

  /** @internal */
  constructor(url: string, { WebSocket: Socket = globalThis.WebSocket, timing = {} }: RoomOptions) {
    super();
    if (!Socket) throw new LastmileError("unsupported", "no WebSocket, pass the `WebSocket` option");
    this.#Socket = Socket as typeof WebSocket;
    this.#url = gatewayUrl(url).replace(/^http/, "ws") + "/v1/rooms";
    this.#backoff = new Backoff(timing.backoffMs ?? 250, timing.backoffMaxMs ?? 5000);
    this.#openMs = timing.openMs ?? 8000;
  }

  /** @internal */
  start(room: string, first: Frame): Promise<Room> {
    this.room = room;
    return new Promise((resolve, reject) => {
      this.#joinPromise = { resolve, reject };
      this.#connect(first);
    });
  }

  /** Sends any JSON to the other peers; resolves when the gateway accepted it. While disconnected the message waits for
   * the reconnect. Rejected with `connection_lost`, it may or may not have arrived. */
  send(data: unknown): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#isClosed) return reject(new LastmileError("room_closed"));
      const isFull = this.#pendingSends.size >= MAX_PENDING_SENDS;
      if (isFull) return reject(new LastmileError("rate_limited", undefined, true));
      const id = this.#nextId();
      this.#pendingSends.set(id, { data, resolve, reject });
      if (this.#isJoined) this.#transmit(id);
    });
  }

  /** Leaves the room and releases the seat. */
  leave(): void {
    this.#sendFrame({ type: "leave" });
    this.#finish();
  }

  /** Closes the room for all peers. */
  end(): void {
    this.#sendFrame({ type: "end" });
    this.#finish();
  }

  #nextId(): string {
    return String(++this.#ids);
  }

  #sendFrame(command: Frame): void {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(command));
  }

  #transmit(id: string): void {
    const pending = this.#pendingSends.get(id)!;
    pending.pingId = this.#nextId();
    this.#sendFrame({ type: "message", id, data: pending.data });
    this.#sendFrame({ type: "ping", id: pending.pingId });
  }

  #connect(first: Frame): void {
    const socket = new this.#Socket(this.#url + (this.room && `/${this.room}`), ROOM_SUBPROTOCOL);
    this.#socket = socket;
    const onTimeout = () => this.#onClose(socket, CONNECTION_LOST.code, CONNECTION_LOST.reason);
    this.#timers.push(setTimeout(onTimeout, this.#openMs));
    socket.onopen = () => this.#sendFrame(first);
    socket.onmessage = ({ data }) => {
      const frame = parse(data);
      if (frame && this.#socket === socket) this.#onFrame(frame);
    };
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => this.#onClose(socket, code, reason || CONNECTION_LOST.reason);
  }

  #onFrame(frame: Frame): void {
    switch (frame.type) {
      case "opened":
        this.link = frame.link;
        this.joinSecret = frame.join_secret;
        this.code = frame.code as string | undefined;
        this.codeSecs = frame.code_secs;
        return;
      case "joined":
        return this.#onJoined(frame);
      case "peer_joined": {
        const { peer, sender, resumed } = frame;
        this.peers.set(peer, { peer, sender });
        return this.emit("peer_joined", { peer, sender, resumed });
      }
      case "peer_left": {
        const { peer, reason } = frame as Frame & { peer: string; reason: "left" | "away" | "timeout" };
        const known = this.peers.get(peer);
        if (reason !== "away") this.peers.delete(peer);
        else if (known) known.away = true;
        return this.emit("peer_left", { peer, reason });
      }
      case "message": {
        const { data, seq, from, sender } = frame;
        if (seq <= this.#lastSeq) return;
        this.#lastSeq = seq;
        return this.emit("message", { data, seq, from, sender });
      }
      case "pong":
        for (const [id, { pingId, resolve }] of this.#pendingSends) {
          if (pingId === frame.id && this.#pendingSends.delete(id)) resolve();
        }
        return;
      case "error": {
        const pending = this.#pendingSends.get(frame.id ?? "");
        this.#pendingSends.delete(frame.id ?? "");
        pending?.reject(errorFromFrame(frame));
      }
    }
  }

  #onJoined({ room, peer, resume, recovered, peers, expires }: Frame): void {
    this.#clearTimers();
    this.#backoff.reset();
    const isResumed = this.#resumeToken !== "";
    Object.assign(this, { room, peer, expires });
    this.#resumeToken = resume;
    this.#isJoined = true;
    this.peers = new Map(peers.map((peer: Peer) => [peer.peer, peer]));
    this.emit("state", { state: "connected" });
    if (isResumed) this.emit("resumed", { recovered: recovered === true });
    this.#joinPromise?.resolve(this);
    this.#joinPromise = undefined;
    for (const id of this.#pendingSends.keys()) this.#transmit(id);
  }

  #onClose(socket: WebSocket, code: number, reason: string): void {
    if (this.#socket !== socket) return;
    const error = errorFromClose({ code, reason });
    this.#disconnect();
    // Without a seat there is nothing to resume.
    if (isFinal(code) || !this.#resumeToken) return this.#finish(error);
    for (const [id, { pingId, reject }] of this.#pendingSends) {
      if (pingId && this.#pendingSends.delete(id)) reject(errorFromClose(CONNECTION_LOST));
    }
    this.emit("state", { state: "waiting", error });
    const reconnect = () => this.#connect({ type: "resume", resume: this.#resumeToken, seen: this.#lastSeq });
    this.#timers.push(setTimeout(reconnect, this.#backoff.next()));
  }

  #finish(error?: LastmileError): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#disconnect();
    for (const { reject } of this.#pendingSends.values()) reject(error ?? new LastmileError("room_closed"));
    this.#pendingSends.clear();
    this.#joinPromise?.reject(error ?? new LastmileError("room_closed"));
    this.emit("state", { state: "closed", error });
    this.emit("closed", error);
  }

  #disconnect(): void {
    this.#clearTimers();
    this.#isJoined = false;
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.close(1000);
  }

  #clearTimers(): void {
    this.#timers.forEach(clearTimeout);
    this.#timers = [];
  }
}
