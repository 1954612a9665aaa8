// The room of the demonstration: two tabs find each other through the gateway and open a data channel.
// The first one gets the other's answer in two messages: an offer and an answer, each with all its candidates.
import { joinRoom, openRoom } from "/demo/client.js";

const byId = (id) => document.getElementById(id);
const state = (text) => (byId("room-state").textContent = text);

async function open() {
  const room = await openRoom(location.origin);
  byId("link").href = `/demo#room=${room.room}&secret=${encodeURIComponent(room.joinSecret)}`;
  byId("link").hidden = false;
  return room;
}

async function enter(entering) {
  try {
    const room = await entering;
    meet(room);
    state(room.peers.size ? "joined" : "waiting for the other tab");
  } catch (error) {
    state(error.code);
  }
}

function meet(room) {
  const peer = new RTCPeerConnection();
  peer.ondatachannel = (event) => talk(event.channel);
  // Whoever was there first makes the offer.
  room.on("peer_joined", async ({ resumed }) => {
    if (resumed) return;
    talk(peer.createDataChannel("demo"));
    await room.send(await described(peer, await peer.createOffer()));
  });
  room.on("message", async ({ data, sender }) => {
    showPlace(sender);
    await peer.setRemoteDescription(data);
    if (data.type === "offer") await room.send(await described(peer, await peer.createAnswer()));
  });
  room.on("closed", (error) => state(error?.code ?? "closed"));
}

// A room carries few messages, so the candidates go with the description and not after it.
function described(peer, description) {
  return new Promise((resolve, reject) => {
    const done = () => peer.iceGatheringState === "complete" && resolve(peer.localDescription.toJSON());
    peer.addEventListener("icegatheringstatechange", done);
    peer.setLocalDescription(description).then(done, reject);
  });
}

function talk(channel) {
  channel.onopen = () => {
    state("connected to the other tab");
    channel.send(`hello, it is ${new Date().toLocaleTimeString()} here`);
  };
  channel.onmessage = (event) => (byId("heard").textContent = event.data);
}

function showPlace({ city, region, country, remote }) {
  const place = [city, region, country].filter(Boolean).join(", ");
  byId("place").textContent = [place, remote].filter(Boolean).join(" — ") || "an unknown place";
}

byId("open").onclick = () => enter(open());
const invited = new URLSearchParams(location.hash.slice(1));
if (invited.has("room")) {
  // The secret is of no use in the address bar any more.
  history.replaceState(null, "", location.pathname);
  enter(joinRoom(location.origin, { room: invited.get("room"), secret: invited.get("secret") }));
}
