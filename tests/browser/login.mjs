// A person logs in with a real browser at a real provider, listens live, and is logged out; foreign pages get nothing.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { endsWithTests, freePort } from "../../clients/js/tests/support/processes.mjs";
import { lastmile, launch, patience, patienceOfOne } from "./support.mjs";

const run = promisify(execFile);
const command = resolve(lastmile);
let folder, gateway, publishing, provider, evil, browser;
const children = [];

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "lastmile-login-"));
  // The provider must know the redirect URI before the gateway runs.
  const [port, publishPort, opsPort] = [await freePort(), await freePort(), await freePort()];
  gateway = `http://127.0.0.1:${port}`;
  publishing = `http://127.0.0.1:${publishPort}`;
  const clients = [{
    client_id: "gateway", client_secret: "s3cret", redirect_uris: [`${gateway}/v1/auth/callback`],
    post_logout_redirect_uris: [`${gateway}/v1/auth/logged-out`],
    backchannel_logout_uri: `${gateway}/v1/auth/backchannel-logout`, backchannel_logout_session_required: true,
  }];
  const server = spawn("node", ["provider.mjs"], {
    cwd: fileURLToPath(new URL("../oidc_provider", import.meta.url)), env: { ...process.env, CLIENTS: JSON.stringify(clients) },
    stdio: ["pipe", "pipe", "inherit"],
  });
  children.push(endsWithTests(server));
  for await (const line of createInterface({ input: server.stdout })) {
    provider = JSON.parse(line).issuer;
    break;
  }
  assert.ok(provider, "the provider does not start");
  server.stdout.resume();

  const { stdout: whitelist } = await run(command, ["keygen", "-o", "publisher.key", "--name", "news"], { cwd: folder });
  await run(command, ["keygen", "--seal", "-o", "session.key"], { cwd: folder });
  await writeFile(join(folder, "client.secret"), "s3cret\n", { mode: 0o600 });
  await writeFile(join(folder, "lastmile.toml"), `
${whitelist.replace(/channels = .*/, 'channels = ["*"]')}
[listeners.public]
address = "127.0.0.1:${port}"
roles = ["subscribe", "login"]
[listeners.publish]
address = "127.0.0.1:${publishPort}"
roles = ["publish"]
[listeners.ops]
address = "127.0.0.1:${opsPort}"
roles = ["ops"]
[login]
url = "${gateway}"
seal_keys = ["session.key"]
[[issuers]]
issuer = "${provider}"
audience = "lastmile"
discovery = true
login = { client_id = "gateway", client_secret_file = "client.secret", scopes = ["openid", "profile"], name = "company" }
[[channels]]
match = "staff.*"
subscribers = { group = "staff" }
backlog_messages = 10
[log]
filter = "warn"
`);
  const serving = spawn(command, ["serve", "--config", "lastmile.toml"], { cwd: folder, stdio: ["ignore", "ignore", "inherit"] });
  children.push(endsWithTests(serving));
  for (let ready = false; !ready;) {
    assert.equal(serving.exitCode, null, "the gateway does not start");
    ready = await fetch(`http://127.0.0.1:${opsPort}/readyz`).then((answer) => answer.ok, () => false);
    if (!ready) await new Promise((tick) => setTimeout(tick, 50));
  }

  evil = createServer((_request, response) => response.setHeader("content-type", "text/html").end("<title>evil</title>"));
  await new Promise((ready) => evil.listen(0, "127.0.0.1", ready));
  browser = await launch();
});

after(async () => {
  await browser?.close();
  evil?.close();
  for (const child of children) {
    child.kill("SIGKILL");
    if (child.exitCode === null && child.signalCode === null) await new Promise((ended) => child.once("exit", ended));
  }
  await rm(folder, { recursive: true, force: true });
});

// A profile of its own. `/app` stands for the application's page on the gateway's origin; the 404 there is page enough.
async function person() {
  const context = await browser.newContext();
  context.setDefaultTimeout(patienceOfOne);
  await context.route("**/*", (route) => {
    const url = new URL(route.request().url());
    // The provider's pages ask for a font of the world.
    const going = ["127.0.0.1", "localhost"].includes(url.hostname) ? route.continue() : route.abort();
    // A page that was closed meanwhile has no use for it.
    return going.catch(() => {});
  });
  return context;
}

async function logIn(page, name) {
  await page.goto(`${gateway}/v1/auth/login?return_to=/app`, { waitUntil: "commit" });
  await page.fill("input[name=login]", name);
  await page.fill("input[name=password]", "x");
  await page.click("button[type=submit]");
  await page.waitForURL((url) => url.origin === gateway || url.pathname.startsWith("/interaction/"));
  if (page.url().startsWith(provider)) {
    await page.waitForSelector("input[name=prompt][value=consent]", { state: "attached" });
    await page.click("button[type=submit]");
  }
  await page.waitForURL(`${gateway}/app`);
}

// Opens a WebSocket on the page; what comes is kept in `window.frames_`, how it ends in `window.end_`.
async function listen(page, channel) {
  await page.goto(`${gateway}/app`);
  await page.evaluate(([url, channel]) => {
    window.frames_ = [];
    const socket = new WebSocket(`${url.replace("http", "ws")}/v1/subscribe`, "lastmile.v1");
    socket.onmessage = (event) => window.frames_.push(JSON.parse(event.data));
    socket.onopen = () => {
      socket.send(JSON.stringify({ type: "hello" }));
      socket.send(JSON.stringify({ type: "subscribe", id: "1", channel, backlog: 10 }));
    };
    socket.onclose = (event) => (window.end_ = [event.code, event.reason]);
  }, [gateway, channel]);
  await page.waitForFunction(() => window.frames_.some((frame) => frame.type === "subscribed"));
}

const publish = (channel, text) =>
  run(command, ["publish", channel, "--text", text, "--quiet", "--url", publishing, "--key", join(folder, "publisher.key")]);
const session = (page) => page.evaluate(async () => (await fetch("/v1/auth/session")).status);

test("a person logs in, hears live messages in two tabs, and logs out here and at the provider", { timeout: patience }, async () => {
  const context = await person();
  const page = await context.newPage();
  const seen = [];
  context.on("request", (request) => seen.push(request.url()));
  await logIn(page, "alice");
  const other = await context.newPage();
  await listen(page, "staff.news");
  await listen(other, "staff.news");
  await publish("staff.news", "hello alice");
  for (const tab of [page, other]) {
    await tab.waitForFunction(() => window.frames_.some((frame) => frame.data === "hello alice"));
    const welcome = await tab.evaluate(() => window.frames_[0]);
    assert.deepEqual([welcome.type, welcome.principal], ["welcome", "alice"]);
  }
  assert.equal(await page.evaluate(() => document.cookie), "", "no script reads the session");
  assert.ok(!seen.some((url) => url.includes("eyJ")), "no token in a URL");
  const [cookie] = (await context.cookies(gateway)).filter((cookie) => cookie.name.startsWith("lastmile"));
  assert.deepEqual([cookie.name, cookie.httpOnly, cookie.sameSite, cookie.path], ["lastmile", true, "Lax", "/"]);

  const { logout_url } = await page.evaluate(async () => (await fetch("/v1/auth/logout", { method: "POST" })).json());
  for (const tab of [page, other]) {
    await tab.waitForFunction(() => window.end_);
    assert.deepEqual(await tab.evaluate(() => window.end_), [4503, "revoked"]);
  }
  assert.equal(await session(page), 401);
  await page.goto(logout_url, { waitUntil: "commit" });
  await page.click("button[type=submit][value=yes]");
  await page.waitForURL(`${gateway}/v1/auth/logged-out*`);
  await context.close();
});

test("t_b1 a foreign page cannot use the session, in a socket or otherwise", { timeout: patience }, async () => {
  const context = await person();
  const page = await context.newPage();
  await logIn(page, "alice");
  // Of the same site, so that the browser sends the cookie along; of another site; and of no origin at all.
  const { port } = evil.address();
  for (const [origin, sandboxed] of [[`http://127.0.0.1:${port}`], [`http://localhost:${port}`], [`http://127.0.0.1:${port}`, true]]) {
    const foreign = await context.newPage();
    await foreign.goto(origin);
    let frame = foreign.mainFrame();
    if (sandboxed) {
      const attached = foreign.waitForEvent("frameattached");
      await foreign.evaluate(() => {
        const inner = document.createElement("iframe");
        inner.sandbox = "allow-scripts";
        inner.srcdoc = "<title>inner</title>";
        document.body.append(inner);
      });
      frame = await attached;
      // Before its own document there is an empty one, which goes.
      await frame.waitForFunction(() => document.title === "inner");
    }
    const got = await frame.evaluate(async (gateway) => {
      const opened = new Promise((done) => {
        const socket = new WebSocket(`${gateway.replace("http", "ws")}/v1/subscribe`, "lastmile.v1");
        socket.onopen = () => done("open");
        socket.onerror = () => done("refused");
      });
      const read = fetch(`${gateway}/v1/auth/session`, { credentials: "include" }).then((answer) => answer.status, () => "refused");
      const blind = fetch(`${gateway}/v1/auth/logout`, { method: "POST", mode: "no-cors", credentials: "include" }).catch(() => {});
      return [await opened, await read, await blind.then(() => "sent")];
    }, gateway);
    assert.deepEqual(got, ["refused", "refused", "sent"], origin);
    await foreign.close();
  }
  await page.goto(`${gateway}/app`);
  assert.equal(await session(page), 200, "nobody logged alice out");
  await context.close();
});

test("o_f a logout at the provider ends the page's connection, and bob's goes on", { timeout: patience }, async () => {
  const [alice, bob] = [await person(), await person()];
  const [page, others] = [await alice.newPage(), await bob.newPage()];
  await logIn(page, "alice");
  await logIn(others, "bob");
  await listen(page, "staff.news");
  await listen(others, "staff.news");
  const leaving = await alice.newPage();
  await leaving.goto(`${provider}/session/end?client_id=gateway`, { waitUntil: "commit" });
  await leaving.click("button[type=submit][value=yes]");
  await page.waitForFunction(() => window.end_);
  assert.deepEqual(await page.evaluate(() => window.end_), [4503, "revoked"]);
  assert.equal(await session(page), 401);
  await publish("staff.news", "hello bob");
  await others.waitForFunction(() => window.frames_.some((frame) => frame.data === "hello bob"));
  assert.equal(await others.evaluate(() => window.end_), undefined);
  await Promise.all([alice.close(), bob.close()]);
});
