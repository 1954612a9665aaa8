// The demo's live channel, with the JavaScript client.
import { connect } from "/demo/client.js";

const MAX_ROWS = 20;
const stateElement = document.getElementById("state");
const messages = document.getElementById("messages");

function showPublication({ offset, time, publisher, data }) {
  const row = document.createElement("tr");
  const dataText = typeof data === "string" ? data : JSON.stringify(data);
  for (const text of [offset, time, publisher, dataText]) {
    const cell = document.createElement("td");
    cell.textContent = text;
    row.append(cell);
  }
  messages.prepend(row);
  while (messages.children.length > MAX_ROWS) messages.lastChild.remove();
}

const client = connect(location.origin);
client.on("state", ({ state, error }) => {
  if (state !== "connected") stateElement.textContent = error?.code ?? state;
});
const subscription = client.subscribe("demo.ticker", { backlog: MAX_ROWS });
document.getElementById("channel").textContent = subscription.channel;
subscription.on("subscribed", () => (stateElement.textContent = "live"));
subscription.on("ended", (error) => (stateElement.textContent = error?.code ?? "closed"));
subscription.on("message", showPublication);
