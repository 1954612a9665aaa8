// Login at an OpenID provider with Chromium: sessions, logout, and requests of foreign origins.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { launchChromium, newContext } from "../../clients/js/tests/support/chromium.mjs";
import { freePort, killOnExit, stopProcess } from "../../clients/js/tests/support/processes.mjs";
import { lastmile, serve } from "../../clients/js/tests/support/serve.mjs";
import { TEST_TIMEOUT_MS } from "./support.mjs";

const run = promisify(execFile);
let folder, gateway, publishUrl, provider, foreignSite, browser;
const children = [];

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "lastmile-login-"));
  // The provider needs the gateway's redirect URI before the gateway starts.
  const port = await freePort();
  gateway = `http://127.0.0.1:${port}`;
  provider = await startProvider();
  await writeConfig(port);
  const { process, urls } = await serve("lastmile.toml", { cwd: folder });
  children.push(process);
  publishUrl = urls.publish;

  foreignSite = createServer((_request, response) => {
    response.setHeader("content-type", "text/html").end("<title>foreign</title>");
  });
  await new Promise((ready) => foreignSite.listen(0, "127.0.0.1", ready));
  browser = await launchChromium();
});

after(async () => {
  await browser?.close();
  foreignSite?.close();
  for (const child of children) await stopProcess(child, "SIGKILL");
  await rm(folder, { recursive: true, force: true });
});

/** Returns the issuer of a provider that knows the gateway as a client. */
async function startProvider() {
  const clients = [{
    client_id: "gateway", client_secret: "s3cret", redirect_uris: [`${gateway}/v1/auth/callback`],
    post_logout_redirect_uris: [`${gateway}/v1/auth/logged-out`],
    backchannel_logout_uri: `${gateway}/v1/auth/backchannel-logout`, backchannel_logout_session_required: true,
  }];
  const child = killOnExit(spawn("node", ["provider.mjs"], {
    cwd: fileURLToPath(new URL("../oidc_provider", import.meta.url)),
    env: { ...process.env, CLIENTS: JSON.stringify(clients) },
    stdio: ["pipe", "pipe", "inherit"],
  }));
  children.push(child);
  let issuer;
  for await (const line of createInterface({ input: child.stdout })) {
    issuer = JSON.parse(line).issuer;
    break;
  }
  assert.ok(issuer, "the provider does not start");
  child.stdout.resume();
  return issuer;
}

async function writeConfig(port) {
  const keygen = (...args) => run(lastmile, ["keygen", ...args], { cwd: folder });
  const { stdout: whitelist } = await keygen("-o", "publisher.key", "--name", "news");
  await keygen("--seal", "-o", "session.key");
  await writeFile(join(folder, "client.secret"), "s3cret\n", { mode: 0o600 });
  await writeFile(join(folder, "lastmile.toml"), `
${whitelist.replace(/channels = .*/, 'channels = ["*"]')}
[listeners.public]
address = "127.0.0.1:${port}"
roles = ["subscribe", "login"]
[listeners.publish]
address = "127.0.0.1:0"
roles = ["publish"]
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
`);
}

/** A user's browser profile. `/app` stands for the application's page on the gateway's origin; a 404 is enough. */
async function newUser() {
  const context = await newContext(browser);
  await context.route("**/*", (route) => {
    const url = new URL(route.request().url());
    const isLocal = ["127.0.0.1", "localhost"].includes(url.hostname);
    // The provider's pages load a font from the internet.
    const handled = isLocal ? route.continue() : route.abort();
    // Fails if the page was closed in the meantime.
    return handled.catch(() => {});
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

/** Subscribes to a channel on the page. Frames are in `window.receivedFrames`, the close in `window.closeEvent`. */
async function subscribe(page, channel) {
  await page.goto(`${gateway}/app`);
  await page.evaluate(([url, channel]) => {
    window.receivedFrames = [];
    const socket = new WebSocket(`${url.replace("http", "ws")}/v1/subscribe`, "lastmile.v1");
    socket.onmessage = (event) => window.receivedFrames.push(JSON.parse(event.data));
    socket.onopen = () => {
      socket.send(JSON.stringify({ type: "hello" }));
      socket.send(JSON.stringify({ type: "subscribe", id: "1", channel, backlog: 10 }));
    };
    socket.onclose = (event) => (window.closeEvent = [event.code, event.reason]);
  }, [gateway, channel]);
  await page.waitForFunction(() => window.receivedFrames.some((frame) => frame.type === "subscribed"));
}

const publish = (channel, text) =>
  run(lastmile, [
    "publish", channel, "--text", text, "--quiet", "--url", publishUrl, "--key", join(folder, "publisher.key"),
  ]);
const sessionStatus = (page) => page.evaluate(async () => (await fetch("/v1/auth/session")).status);

test("login, live messages in two tabs, logout", { timeout: TEST_TIMEOUT_MS }, async () => {
  const context = await newUser();
  const page = await context.newPage();
  const requestUrls = [];
  context.on("request", (request) => requestUrls.push(request.url()));
  await logIn(page, "alice");
  const other = await context.newPage();
  await subscribe(page, "staff.news");
  await subscribe(other, "staff.news");
  await publish("staff.news", "hello alice");
  for (const tab of [page, other]) {
    await tab.waitForFunction(() => window.receivedFrames.some((frame) => frame.data === "hello alice"));
    const welcome = await tab.evaluate(() => window.receivedFrames[0]);
    assert.deepEqual([welcome.type, welcome.principal], ["welcome", "alice"]);
  }
  assert.equal(await page.evaluate(() => document.cookie), "", "scripts cannot read the session cookie");
  assert.ok(!requestUrls.some((url) => url.includes("eyJ")), "no token in a URL");
  const [cookie] = (await context.cookies(gateway)).filter((cookie) => cookie.name.startsWith("lastmile"));
  assert.deepEqual([cookie.name, cookie.httpOnly, cookie.sameSite, cookie.path], ["lastmile", true, "Lax", "/"]);

  const { logout_url } = await page.evaluate(async () => (await fetch("/v1/auth/logout", { method: "POST" })).json());
  for (const tab of [page, other]) {
    await tab.waitForFunction(() => window.closeEvent);
    assert.deepEqual(await tab.evaluate(() => window.closeEvent), [4503, "revoked"]);
  }
  assert.equal(await sessionStatus(page), 401);
  await page.goto(logout_url, { waitUntil: "commit" });
  await page.click("button[type=submit][value=yes]");
  await page.waitForURL(`${gateway}/v1/auth/logged-out*`);
  await context.close();
});

test("foreign origins cannot use the session", { timeout: TEST_TIMEOUT_MS }, async () => {
  const context = await newUser();
  const page = await context.newPage();
  await logIn(page, "alice");
  // The same site, to which the browser sends the cookie; another site; and an opaque origin.
  const { port } = foreignSite.address();
  const sameSite = `http://127.0.0.1:${port}`, otherSite = `http://localhost:${port}`;
  for (const [origin, isSandboxed] of [[sameSite], [otherSite], [sameSite, true]]) {
    const foreign = await context.newPage();
    await foreign.goto(origin);
    let frame = foreign.mainFrame();
    if (isSandboxed) {
      const attached = foreign.waitForEvent("frameattached");
      await foreign.evaluate(() => {
        const inner = document.createElement("iframe");
        inner.sandbox = "allow-scripts";
        inner.srcdoc = "<title>inner</title>";
        document.body.append(inner);
      });
      frame = await attached;
      // The frame has an empty document first.
      await frame.waitForFunction(() => document.title === "inner");
    }
    const results = await frame.evaluate(async (gateway) => {
      const opened = new Promise((done) => {
        const socket = new WebSocket(`${gateway.replace("http", "ws")}/v1/subscribe`, "lastmile.v1");
        socket.onopen = () => done("open");
        socket.onerror = () => done("refused");
      });
      const credentials = "include";
      const read = fetch(`${gateway}/v1/auth/session`, { credentials }).then(({ status }) => status, () => "refused");
      const logout = fetch(`${gateway}/v1/auth/logout`, { method: "POST", mode: "no-cors", credentials });
      return [await opened, await read, await logout.then(() => "sent", () => "sent")];
    }, gateway);
    assert.deepEqual(results, ["refused", "refused", "sent"], origin);
    await foreign.close();
  }
  await page.goto(`${gateway}/app`);
  assert.equal(await sessionStatus(page), 200, "alice is still logged in");
  await context.close();
});

test("logout at the provider ends one user's session", { timeout: TEST_TIMEOUT_MS }, async () => {
  const [alice, bob] = [await newUser(), await newUser()];
  const [page, bobsPage] = [await alice.newPage(), await bob.newPage()];
  await logIn(page, "alice");
  await logIn(bobsPage, "bob");
  await subscribe(page, "staff.news");
  await subscribe(bobsPage, "staff.news");
  const logoutPage = await alice.newPage();
  await logoutPage.goto(`${provider}/session/end?client_id=gateway`, { waitUntil: "commit" });
  await logoutPage.click("button[type=submit][value=yes]");
  await page.waitForFunction(() => window.closeEvent);
  assert.deepEqual(await page.evaluate(() => window.closeEvent), [4503, "revoked"]);
  assert.equal(await sessionStatus(page), 401);
  await publish("staff.news", "hello bob");
  await bobsPage.waitForFunction(() => window.receivedFrames.some((frame) => frame.data === "hello bob"));
  assert.equal(await bobsPage.evaluate(() => window.closeEvent), undefined);
  await Promise.all([alice.close(), bob.close()]);
});
