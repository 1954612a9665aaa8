// The public interface of the package.

export { connect, type Client } from "./client.js";
export type { ClientEvents, ClientOptions, State, Timing, TokenSource } from "./options.js";
export { LastmileError, type ErrorCode, type Position, type Publication } from "./protocol.js";
export {
  joinRoom, openRoom, type Invitation, type OpenOptions, type Peer, type Room, type RoomEvents, type RoomMessage,
  type RoomOptions, type Sender,
} from "./rooms.js";
export type { Gap, SubscribeOptions, Subscription, SubscriptionEvents } from "./subscription.js";
export type { TransportName } from "./transports/link.js";
