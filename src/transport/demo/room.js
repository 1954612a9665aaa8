// The demo's room: two tabs exchange a WebRTC offer and answer through the gateway and open a data channel.
import { joinRoom, openRoom } from "/demo/client.js";

const byId = (id) => document.getElementById(id);
const showState = (text) => (byId("room-state").textContent = text);

async function open() {
  const room = await openRoom(location.origin);
  byId("link").href = `/demo#room=${room.room}&secret=${encodeURIComponent(room.joinSecret)}`;
  byId("link").hidden = false;
  return room;
}

async function enter(joining) {
  try {
    const room = await joining;
    connectPeers(room);
    showState(room.peers.size ? "joined" : "waiting for the other tab");
  } catch (error) {
    showState(error.code);
  }
}

function connectPeers(room) {
  const peer = new RTCPeerConnection();
  peer.ondatachannel = (event) => useDataChannel(event.channel);
  // Only the first peer receives this event, so it makes the offer.
  room.on("peer_joined", async ({ resumed }) => {
    if (resumed) return;
    useDataChannel(peer.createDataChannel("demo"));
    await room.send(await gatherCandidates(peer, await peer.createOffer()));
  });
  room.on("message", async ({ data, sender }) => {
    showPlace(sender);
    await peer.setRemoteDescription(data);
    if (data.type === "offer") await room.send(await gatherCandidates(peer, await peer.createAnswer()));
  });
  room.on("closed", (error) => showState(error?.code ?? "closed"));
}

// Returns the description with all its candidates. They are not sent separately: a room has a low limit of messages.
function gatherCandidates(peer, description) {
  return new Promise((resolve, reject) => {
    const done = () => peer.iceGatheringState === "complete" && resolve(peer.localDescription.toJSON());
    peer.addEventListener("icegatheringstatechange", done);
    peer.setLocalDescription(description).then(done, reject);
  });
}

function useDataChannel(channel) {
  channel.onopen = () => {
    showState("connected to the other tab");
    channel.send(`hello, it is ${new Date().toLocaleTimeString()} here`);
  };
  channel.onmessage = (event) => (byId("peer-message").textContent = event.data);
}

function showPlace({ city, region, country, remote }) {
  const place = [city, region, country].filter(Boolean).join(", ");
  byId("place").textContent = [place, remote].filter(Boolean).join(" — ") || "an unknown place";
}

byId("open").onclick = () => enter(open());
const invitation = new URLSearchParams(location.hash.slice(1));
if (invitation.has("room")) {
  // Removes the secret from the address bar.
  history.replaceState(null, "", location.pathname);
  enter(joinRoom(location.origin, { room: invitation.get("room"), secret: invitation.get("secret") }));
}
