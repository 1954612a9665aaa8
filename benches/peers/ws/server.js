// A server to compare with: npm `ws`, a simple broadcast. Speaks the same paths as the floor.
import { WebSocketServer, WebSocket } from "ws";

const port = Number(process.argv[2]);
const listeners = new Set();
const rooms = new Map();

const server = new WebSocketServer({ host: "127.0.0.1", port, backlog: 4096, perMessageDeflate: false });
server.on("connection", (socket, request) => {
  socket.on("error", () => socket.terminate());
  if (request.url === "/pub") {
    socket.on("message", (data, binary) => {
      for (const listener of listeners) {
        if (listener.readyState === WebSocket.OPEN) listener.send(data, { binary });
      }
    });
  } else if (request.url === "/sub") {
    listeners.add(socket);
    socket.on("close", () => listeners.delete(socket));
  } else {
    const room = rooms.get(request.url) ?? new Set();
    rooms.set(request.url, room.add(socket));
    socket.on("message", (data, binary) => {
      for (const peer of room) if (peer !== socket) peer.send(data, { binary });
    });
    socket.on("close", () => rooms.delete(request.url));
  }
});
