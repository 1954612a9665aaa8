// The live channel of the demonstration. Connects again unless the close code says not to (4500 and above).
const channel = "demo.ticker";
const rows = 20;
const state = document.getElementById("state");
const messages = document.getElementById("messages");
document.getElementById("channel").textContent = channel;

function show(message) {
  const row = document.createElement("tr");
  const data = typeof message.data === "string" ? message.data : JSON.stringify(message.data);
  for (const text of [message.offset, message.time, message.publisher, data]) {
    const cell = document.createElement("td");
    cell.textContent = text;
    row.append(cell);
  }
  messages.prepend(row);
  while (messages.children.length > rows) messages.lastChild.remove();
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}/v1/subscribe`, "lastmile.v1");
  socket.onopen = () => {
    socket.send(JSON.stringify({ type: "hello" }));
    socket.send(JSON.stringify({ type: "subscribe", id: "1", channel, backlog: rows }));
  };
  socket.onmessage = (event) => {
    const frame = JSON.parse(event.data);
    if (frame.type === "subscribed") state.textContent = "live";
    if (frame.type === "message") show(frame);
    if (frame.type === "error") state.textContent = frame.message;
  };
  socket.onclose = (event) => {
    state.textContent = event.reason || "closed";
    if (event.code < 4500) setTimeout(connect, 500 + Math.random() * 1000);
  };
}

connect();
