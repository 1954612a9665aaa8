// A real gateway with its own configuration, in a temporary folder.
import { execFile } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import WebSocket from "ws";
import { stopProcess } from "./processes.mjs";
import { lastmile, serve } from "./serve.mjs";
import { Signer } from "./signer.mjs";

const run = promisify(execFile);

const pem = () => generateKeyPairSync("ed25519").privateKey.export({ format: "pem", type: "pkcs8" });

export class Gateway {
  /** `channels` has the settings of all channels except `members.*` and `bare.*`; `before` has rules that come first,
   * `more` is added at the end. */
  static async start({
    channels = 'subscribers = "anyone"\nbacklog_messages = 10000', more = "", origins = [], egress = 'egress = "none"',
    before = "",
  } = {}) {
    const gateway = new Gateway();
    gateway.folder = await mkdtemp(join(tmpdir(), "lastmile-js-"));
    gateway.signer = new Signer(pem());
    gateway.issuerKey = join(gateway.folder, "issuer.key");
    await writeFile(gateway.issuerKey, pem(), { mode: 0o600 });
    const { stdout: jwks } = await run(lastmile, ["token", "--key", gateway.issuerKey, "--jwks"]);
    await writeFile(join(gateway.folder, "jwks.json"), jwks);
    await writeFile(join(gateway.folder, "gateway.toml"), `${egress}
[listeners]
public = { address = "127.0.0.1:0", roles = ["subscribe", "pair"], origins = ${JSON.stringify(origins)} }
publish = { address = "127.0.0.1:0", roles = ["publish"] }
[publishers.market-data]
key = "${gateway.signer.publicKeyLine}"
channels = ["*"]
[[issuers]]
issuer = "https://app.example"
audience = "lastmile"
jwks_file = "${join(gateway.folder, "jwks.json")}"
leeway_secs = 0
${before}
[[channels]]
match = "members.*"
subscribers = "authenticated"
backlog_messages = 100
[[channels]]
match = "bare.*"
subscribers = "anyone"
[[channels]]
match = "*"
${channels}
[drain]
window_secs = 0
deadline_secs = 2
${more}`);
    await gateway.run();
    return gateway;
  }

  /** Starts the process, also after `stop`. */
  async run() {
    const { process, log, urls } = await serve(join(this.folder, "gateway.toml"));
    Object.assign(this, { process, log, url: urls.public, publishUrl: urls.publish });
    this.port = Number(new URL(this.url).port);
  }

  /** Publishes `data` as JSON, or the body of another content type. */
  publish(channel, data, contentType = "application/json", headers = {}) {
    const body = contentType === "application/json" ? JSON.stringify(data) : data;
    return this.#send("POST", `${this.#channelUrl(channel)}/messages`, contentType, body, headers);
  }

  /** Publishes a batch of JSON publications in one request. */
  publishBatch(channel, list) {
    return this.publish(channel, list.map((data) => JSON.stringify(data)).join("\n"), "application/x-ndjson");
  }

  closeChannel(channel) {
    return this.#send("DELETE", this.#channelUrl(channel));
  }

  #channelUrl(channel) {
    return `${this.publishUrl}/v1/channels/${encodeURIComponent(channel)}`;
  }

  async #send(method, url, contentType, body, headers = {}) {
    const signature = this.signer.headers(method, url, contentType, body).headers;
    const response = await fetch(url, { method, headers: { ...signature, ...headers }, body });
    if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
    return response.status === 204 ? undefined : response.json();
  }

  /** Connects a publisher that answers every reply with `data`, and collects the replies. */
  async answerReplies(data) {
    const url = `${this.publishUrl}/v1/publish`;
    const { headers } = this.signer.headers("GET", url);
    const socket = new WebSocket(url.replace("http", "ws"), "lastmile.v1", { headers });
    await new Promise((ready, failed) => socket.once("open", ready).once("error", failed));
    const replies = [];
    socket.on("message", (text) => {
      const frame = JSON.parse(text);
      if (frame.type !== "reply") return;
      replies.push(frame.data);
      socket.send(JSON.stringify({ type: "answer", id: "1", reply: frame.reply, data }));
    });
    return { replies, close: () => socket.terminate() };
  }

  async token({ subject = "alice", expires = "1h" } = {}) {
    const { stdout } = await run(lastmile, [
      "token", "--key", this.issuerKey, "--issuer", "https://app.example", "--subject", subject, "--expires", expires,
    ]);
    return stdout.trim();
  }

  stop(signal) {
    return stopProcess(this.process, signal);
  }

  async close() {
    await this.stop("SIGKILL");
    await rm(this.folder, { recursive: true, force: true });
  }
}
