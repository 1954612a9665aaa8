// Reference server of the benchmarks: a plain broadcast with npm `ws`. Same paths as the `floor` server.
import { WebSocketServer, WebSocket } from "ws";

const port = Number(process.argv[2]);
const subscribers = new Set();
const rooms = new Map();

const server = new WebSocketServer({ host: "127.0.0.1", port, backlog: 4096, perMessageDeflate: false });
server.on("connection", (socket, request) => {
  socket.on("error", () => socket.terminate());
  if (request.url === "/pub") {
    socket.on("message", (data, binary) => {
      for (const subscriber of subscribers) {
        if (subscriber.readyState === WebSocket.OPEN) subscriber.send(data, { binary });
      }
    });
  } else if (request.url === "/sub") {
    subscribers.add(socket);
    socket.on("close", () => subscribers.delete(socket));
  } else {
    const room = rooms.get(request.url) ?? new Set();
    rooms.set(request.url, room.add(socket));
    socket.on("message", (data, binary) => {
      for (const peer of room) if (peer !== socket) peer.send(data, { binary });
    });
    socket.on("close", () => rooms.delete(request.url));
  }
});
