// The room of the demonstration: two tabs find each other through the gateway and open a data channel.
// The first one gets the other's answer in two messages: an offer and an answer, each with all its candidates.
const byId = (id) => document.getElementById(id);
const state = (text) => (byId("room-state").textContent = text);

async function openRoom() {
  const response = await fetch("/v1/rooms", { method: "POST" });
  if (!response.ok) return state((await response.json()).title);
  const { room, join_secret } = await response.json();
  byId("link").href = `/demo#room=${room}&secret=${encodeURIComponent(join_secret)}`;
  byId("link").hidden = false;
  enter(room, join_secret);
}

function enter(room, secret) {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}/v1/rooms/${room}`, "lastmile.pair.v1");
  const send = (data) => socket.send(JSON.stringify({ type: "message", data }));
  const peer = new RTCPeerConnection();
  peer.ondatachannel = (event) => talk(event.channel);
  socket.onopen = () => socket.send(JSON.stringify({ type: "join", secret }));
  socket.onmessage = async (event) => {
    const frame = JSON.parse(event.data);
    if (frame.type === "joined") state(frame.peers.length ? "joined" : "waiting for the other tab");
    if (frame.type === "error") state(frame.message);
    // Whoever was there first makes the offer.
    if (frame.type === "peer_joined" && !frame.resumed) {
      talk(peer.createDataChannel("demo"));
      send(await described(peer, await peer.createOffer()));
    }
    if (frame.type === "message") {
      showPlace(frame.sender);
      await peer.setRemoteDescription(frame.data);
      if (frame.data.type === "offer") send(await described(peer, await peer.createAnswer()));
    }
  };
  socket.onclose = (event) => state(event.reason || "closed");
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

byId("open").onclick = openRoom;
const invited = new URLSearchParams(location.hash.slice(1));
if (invited.has("room")) {
  // The secret is of no use in the address bar any more.
  history.replaceState(null, "", location.pathname);
  enter(invited.get("room"), invited.get("secret"));
}
