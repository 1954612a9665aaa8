// Rooms: two people or devices meet and pass messages to each other. A lost connection gets its seat back.

import { Backoff } from "./backoff.js";
import { Emitter } from "./emitter.js";
import { errorOf, isFinal, LastmileError, LOST, parse, refusalOf, type Frame } from "./protocol.js";
import type { Timing } from "./client.js";

const SUBPROTOCOL = "lastmile.pair.v1";

/** What the gateway knows of a peer. */
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
  /** Its connection is lost and its seat is kept. */
  away?: boolean;
  sender: Sender;
}

export interface RoomMessage<T = unknown> {
  data: T;
  /** Numbers the messages of the room. */
  seq: number;
  from: string;
  sender: Sender;
}

export interface RoomEvents {
  message: RoomMessage;
  peer_joined: Peer & { resumed?: boolean };
  peer_left: { peer: string; reason: "left" | "away" | "timeout" };
  /** `recovered` is false if messages are missing. */
  resumed: { recovered: boolean };
  state: { state: "connected" | "waiting" | "closed"; error?: LastmileError };
  /** Over for good; without an error by `leave` or `end`. */
  closed: LastmileError | undefined;
}

export interface RoomOptions {
  /** For programs without one (Node 20: `ws`). */
  WebSocket?: unknown;
  timing?: Partial<Pick<Timing, "openMs" | "backoffMs" | "backoffMaxMs">>;
}

export interface OpenOptions extends RoomOptions {
  maxSeats?: number;
  /** A short code to read out. */
  code?: "digits" | "words";
  /** Where opening a room needs a login. */
  token?: string;
}

/** What lets in: the room and its secret, or a short code. */
export type Invitation = { room: string; secret: string } | { code: string };

/** Opens a room and takes its first seat. */
export function openRoom(url: string | URL, { maxSeats, code, token, ...options }: OpenOptions = {}): Promise<Room> {
  return new Room(String(url), options).enter("", { type: "open", max_seats: maxSeats, code, token });
}

/** Takes a seat in a room. */
export function joinRoom(url: string | URL, invitation: Invitation, options: RoomOptions = {}): Promise<Room> {
  const room = new Room(String(url), options);
  if ("code" in invitation) return room.enter("", { type: "join", code: invitation.code });
  return room.enter(invitation.room, { type: "join", secret: invitation.secret });
}

interface Sending {
  data: unknown;
  /** The ping behind it: its pong says that the gateway took the message. */
  pingId?: string;
  resolve(): void;
  reject(error: LastmileError): void;
}

/** Messages that may wait to be taken. */
const MAX_SENDING = 100;

export class Room extends Emitter<RoomEvents> {
  room = "";
  /** This peer's own name. */
  peer = "";
  peers = new Map<string, Peer>();
  expires: string | undefined;
  /** Of who opened the room. */
  joinSecret: string | undefined;
  link: string | undefined;
  code: string | undefined;
  codeSecs: number | undefined;

  #url: string;
  #Socket: typeof WebSocket;
  #socket: WebSocket | undefined;
  #backoff: Backoff;
  #openMs: number;
  #resume = "";
  #seen = 0;
  #ids = 0;
  #isJoined = false;
  #isOver = false;
  #sending = new Map<string, Sending>();
  #timers: ReturnType<typeof setTimeout>[] = [];
  #entered: { resolve(room: Room): void; reject(error: LastmileError): void } | undefined;

  /** @internal */
  constructor(url: string, { WebSocket: Socket = globalThis.WebSocket, timing = {} }: RoomOptions) {
    super();
    if (!Socket) throw new LastmileError("unsupported", "there is no WebSocket: pass one");
    this.#Socket = Socket as typeof WebSocket;
    this.#url = url.replace(/\/+$/, "").replace(/^http/, "ws") + "/v1/rooms";
    this.#backoff = new Backoff(timing.backoffMs ?? 250, timing.backoffMaxMs ?? 5000);
    this.#openMs = timing.openMs ?? 8000;
  }

  /** @internal */
  enter(room: string, first: Frame): Promise<Room> {
    this.room = room;
    return new Promise((resolve, reject) => {
      this.#entered = { resolve, reject };
      this.#connect(first);
    });
  }

  /** Passes any JSON to the other peers; done when the gateway took it. While the connection is lost it waits for the
   * seat; `connection_lost` means that it is not known whether it arrived. */
  send(data: unknown): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#isOver) return reject(new LastmileError("room_closed"));
      if (this.#sending.size >= MAX_SENDING) return reject(new LastmileError("rate_limited", undefined, true));
      const id = this.#nextId();
      this.#sending.set(id, { data, resolve, reject });
      if (this.#isJoined) this.#transmit(id);
    });
  }

  /** Gives the seat up. */
  leave(): void {
    this.#say({ type: "leave" });
    this.#finish();
  }

  /** Ends the room for all. */
  end(): void {
    this.#say({ type: "end" });
    this.#finish();
  }

  #nextId(): string {
    return String(++this.#ids);
  }

  #say(command: Frame): void {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(command));
  }

  #transmit(id: string): void {
    const sending = this.#sending.get(id)!;
    sending.pingId = this.#nextId();
    this.#say({ type: "message", id, data: sending.data });
    this.#say({ type: "ping", id: sending.pingId });
  }

  #connect(first: Frame): void {
    const socket = new this.#Socket(this.#url + (this.room && `/${this.room}`), SUBPROTOCOL);
    this.#socket = socket;
    this.#timers.push(setTimeout(() => this.#onClose(socket, LOST.code, LOST.reason), this.#openMs));
    socket.onopen = () => this.#say(first);
    socket.onmessage = ({ data }) => {
      const frame = parse(data);
      if (frame && this.#socket === socket) this.#onFrame(frame);
    };
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => this.#onClose(socket, code, reason || LOST.reason);
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
        if (seq <= this.#seen) return;
        this.#seen = seq;
        return this.emit("message", { data, seq, from, sender });
      }
      case "pong":
        for (const [id, { pingId, resolve }] of this.#sending) {
          if (pingId === frame.id && this.#sending.delete(id)) resolve();
        }
        return;
      case "error": {
        const sending = this.#sending.get(frame.id ?? "");
        this.#sending.delete(frame.id ?? "");
        sending?.reject(refusalOf(frame));
      }
    }
  }

  #onJoined({ room, peer, resume, recovered, peers, expires }: Frame): void {
    this.#clearTimers();
    this.#backoff.reset();
    const isBack = this.#resume !== "";
    Object.assign(this, { room, peer, expires });
    this.#resume = resume;
    this.#isJoined = true;
    this.peers = new Map(peers.map((peer: Peer) => [peer.peer, peer]));
    this.emit("state", { state: "connected" });
    if (isBack) this.emit("resumed", { recovered: recovered === true });
    this.#entered?.resolve(this);
    this.#entered = undefined;
    for (const id of this.#sending.keys()) this.#transmit(id);
  }

  #onClose(socket: WebSocket, code: number, reason: string): void {
    if (this.#socket !== socket) return;
    const error = errorOf({ code, reason });
    this.#hangUp();
    // Before there is a seat there is nothing to come back to.
    if (isFinal(code) || !this.#resume) return this.#finish(error);
    for (const [id, { pingId, reject }] of this.#sending) {
      if (pingId && this.#sending.delete(id)) reject(errorOf(LOST));
    }
    this.emit("state", { state: "waiting", error });
    const come = () => this.#connect({ type: "resume", resume: this.#resume, seen: this.#seen });
    this.#timers.push(setTimeout(come, this.#backoff.next()));
  }

  #finish(error?: LastmileError): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#hangUp();
    for (const { reject } of this.#sending.values()) reject(error ?? new LastmileError("room_closed"));
    this.#sending.clear();
    this.#entered?.reject(error ?? new LastmileError("room_closed"));
    this.emit("state", { state: "closed", error });
    this.emit("closed", error);
  }

  #hangUp(): void {
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
