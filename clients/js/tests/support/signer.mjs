// Signs publish requests (RFC 9421, RFC 9530). Independent of the gateway's code; a unit test checks it by the vectors.
import { createHash, createPrivateKey, createPublicKey, randomBytes, sign } from "node:crypto";

export class Signer {
  constructor(pem) {
    this.key = createPrivateKey(pem);
    this.publicKey = createPublicKey(this.key).export({ format: "der", type: "spki" }).subarray(-32);
    this.blob = Buffer.concat([Buffer.from("ssh-ed25519"), this.publicKey].flatMap((part) => [length(part), part]));
    this.keyid = "SHA256:" + createHash("sha256").update(this.blob).digest("base64").replace(/=+$/, "");
  }

  /** The public key as an OpenSSH line, for the whitelist. */
  get publicKeyLine() {
    return `ssh-ed25519 ${this.blob.toString("base64")}`;
  }

  /** Returns the signature headers of a request, and the signature base for the vectors. */
  headers(method, url, contentType, body, { created = nowSecs(), nonce = randomBytes(16).toString("base64url") } = {}) {
    const [, authority, path, query] = url.match(/^https?:\/\/([^/?]*)([^?]*)(?:\?(.*))?$/s);
    const headers = {};
    const covered = [
      ["@method", method], ["@authority", authority.toLowerCase().replace(/:(80|443)$/, "")],
      ["@path", path || "/"], ["@query", `?${query ?? ""}`],
    ];
    if (body !== undefined) {
      headers["content-digest"] = `sha-256=:${createHash("sha256").update(body).digest("base64")}:`;
      headers["content-type"] = contentType;
      covered.push(...Object.entries(headers));
    }
    const names = covered.map(([name]) => `"${name}"`).join(" ");
    const fields = `created=${created};nonce="${nonce}";keyid="${this.keyid}";alg="ed25519";tag="lastmile"`;
    const parameters = `(${names});${fields}`;
    covered.push(["@signature-params", parameters]);
    const base = covered.map(([name, value]) => `"${name}": ${value}`).join("\n");
    headers["signature-input"] = `lastmile=${parameters}`;
    headers.signature = `lastmile=:${sign(null, Buffer.from(base), this.key).toString("base64")}:`;
    return { headers, base };
  }
}

const nowSecs = () => Math.floor(Date.now() / 1000);

/** The length prefix of an SSH string. */
function length(part) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(part.length);
  return bytes;
}
