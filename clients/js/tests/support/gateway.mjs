// A real gateway with a configuration of its own, in a folder that goes with it.
import { execFile, spawn } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import WebSocket from "ws";
import { endsWithTests } from "./processes.mjs";
import { Signer } from "./signer.mjs";

export const lastmile = process.env.LASTMILE ?? new URL("../../../../target/debug/lastmile", import.meta.url).pathname;

const run = promisify(execFile);

/** Its variables are settings, and those of who runs the tests are not meant for it. */
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("LASTMILE_")));
const pem = () => generateKeyPairSync("ed25519").privateKey.export({ format: "pem", type: "pkcs8" });

export class Gateway {
  static async start({ channels = 'subscribers = "anyone"\nbacklog_messages = 10000', more = "", origins = [], egress = 'egress = "none"' } = {}) {
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
key = "${gateway.signer.line}"
channels = ["*"]
[[issuers]]
issuer = "https://app.example"
audience = "lastmile"
jwks_file = "${join(gateway.folder, "jwks.json")}"
leeway_secs = 0
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

  /** Starts the process, also again after `stop`. */
  async run() {
    this.process = spawn(lastmile, ["serve", "--config", join(this.folder, "gateway.toml")], { env, stdio: ["ignore", "ignore", "pipe"] });
    endsWithTests(this.process);
    this.log = [];
    const lines = createInterface({ input: this.process.stderr });
    const urls = {};
    await new Promise((ready, failed) => {
      lines.on("line", (line) => {
        this.log.push(line);
        const found = line.includes("listening") && { listener: field(line, "listener"), address: field(line, "address") };
        if (found) urls[found.listener] = `http://${found.address}`;
        if (urls.public && urls.publish) ready();
      });
      this.process.once("close", () => failed(new Error(this.log.join("\n"))));
    });
    this.url = urls.public;
    this.publishUrl = urls.publish;
    this.port = Number(new URL(this.url).port);
  }

  async publish(channel, data, contentType = "application/json", more = {}) {
    const isText = typeof data === "string" || data instanceof Uint8Array;
    const body = contentType === "application/json" ? JSON.stringify(data) : isText ? data : data.map((one) => JSON.stringify(one)).join("\n");
    const url = `${this.publishUrl}/v1/channels/${encodeURIComponent(channel)}/messages`;
    return this.#send("POST", url, contentType, body, more);
  }

  publishAll(channel, list) {
    return this.publish(channel, list, "application/x-ndjson");
  }

  closeChannel(channel) {
    return this.#send("DELETE", `${this.publishUrl}/v1/channels/${encodeURIComponent(channel)}`);
  }

  async #send(method, url, contentType, body, more) {
    const { headers } = this.signer.headers(method, url, contentType, body);
    const response = await fetch(url, { method, headers: { ...headers, ...more }, body });
    if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
    return response.status === 204 ? undefined : response.json();
  }

  /** A publisher's connection that answers every reply with `data`. */
  async answer(data) {
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

  async stop(signal = "SIGTERM") {
    if (this.process.exitCode !== null || this.process.signalCode) return;
    const ended = new Promise((done) => this.process.once("exit", done));
    this.process.kill(signal);
    await ended;
  }

  async close() {
    await this.stop("SIGKILL");
    await rm(this.folder, { recursive: true, force: true });
  }
}

function field(line, name) {
  return line.match(new RegExp(`"?${name}"?[:=]"?([^",}\\s]+)`))?.[1];
}
