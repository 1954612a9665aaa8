// The live channel of the demonstration, by the client that pages of others would use as well.
import { connect } from "/demo/client.js";

const rows = 20;
const state = document.getElementById("state");
const messages = document.getElementById("messages");

function show({ offset, time, publisher, data }) {
  const row = document.createElement("tr");
  const shown = typeof data === "string" ? data : JSON.stringify(data);
  for (const text of [offset, time, publisher, shown]) {
    const cell = document.createElement("td");
    cell.textContent = text;
    row.append(cell);
  }
  messages.prepend(row);
  while (messages.children.length > rows) messages.lastChild.remove();
}

const client = connect(location.origin);
client.on("state", ({ state: now, error }) => {
  if (now !== "connected") state.textContent = error?.code ?? now;
});
const subscription = client.subscribe("demo.ticker", { backlog: rows });
document.getElementById("channel").textContent = subscription.channel;
subscription.on("subscribed", () => (state.textContent = "live"));
subscription.on("ended", (error) => (state.textContent = error?.code ?? "closed"));
subscription.on("message", show);
