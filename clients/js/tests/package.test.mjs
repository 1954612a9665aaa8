// The package as npm publishes it: its size, files, types and README examples.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { Gateway } from "./support/gateway.mjs";
import { sleep, waitFor } from "./support/wait.mjs";

const run = promisify(execFile);
const root = new URL("..", import.meta.url).pathname;
let folder, gateway;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "lastmile-package-"));
  const channels = 'subscribers = "anyone"\nreplies = true';
  gateway = await Gateway.start({ channels });
});

after(async () => {
  await gateway?.close();
  await rm(folder, { recursive: true, force: true });
});

test("bundle below 10.5 KB and no dependencies", async () => {
  const size = gzipSync(await readFile(`${root}dist/client.js`), { level: 9 }).length;
  assert.ok(size < 10_500, `${size} bytes`);
  const { dependencies, peerDependencies } = JSON.parse(await readFile(`${root}package.json`));
  assert.deepEqual([dependencies, peerDependencies], [undefined, undefined]);
});

test("the bundle is up to date", () => run("node", ["build.mjs", "--check"], { cwd: root }));

test("the packed package installs, types and runs", async (t) => {
  // Independent of the home folder, and without a check for a newer npm.
  const env = { ...process.env, npm_config_cache: join(folder, "npm"), npm_config_update_notifier: "false" };
  const { stdout } = await run("npm", ["pack", "--json", "--pack-destination", folder], { cwd: root, env });
  const [{ filename, files }] = JSON.parse(stdout.slice(stdout.indexOf("[\n")));
  const names = files.map(({ path }) => path);
  const { exports } = JSON.parse(await readFile(`${root}package.json`));
  for (const path of [...Object.values(exports["."]), "README.md"]) {
    assert.ok(names.includes(path.replace("./", "")), path);
  }
  const map = JSON.parse(await readFile(`${root}dist/client.js.map`));
  assert.ok(names.includes("dist/client.js.map") && map.sourcesContent.length === map.sources.length);
  const isExpected = (name) => /^(package\.json|README\.md|dist\/client\.js(\.map)?|dist\/types\/.*\.d\.ts)$/.test(name);
  assert.deepEqual(names.filter((name) => !isExpected(name)), []);

  const home = join(folder, "node_modules/@lastmile/client");
  await mkdir(home, { recursive: true });
  await run("tar", ["-xzf", join(folder, filename), "--strip-components=1", "-C", home]);
  await writeFile(join(folder, "use.mts"), `
    import { connect, LastmileError, type ErrorCode, type Publication, type Subscription } from "@lastmile/client";
    const client = connect("https://live.example.com", { token: async () => "t" });
    const prices: Subscription<{ usd: number }> = client.subscribe<{ usd: number }>("prices.btc", { backlog: 10 });
    prices.on("message", (publication: Publication<{ usd: number }>) => publication.data.usd.toFixed());
    prices.on("gap", ({ after }) => after.offset);
    client.on("state", ({ error }: { error?: LastmileError }) => error?.temporary);
    const describe = (code: ErrorCode) => (code === "slow_consumer" ? "slow" : code);
    client.on("error", ({ code }) => describe(code));
    // @ts-expect-error no such event
    prices.on("mesage", () => {});
  `);
  const options = ["--noEmit", "--strict", "--module", "nodenext", "--target", "es2022", "--lib", "es2022,dom"];
  await run(`${root}node_modules/.bin/tsc`, [...options, join(folder, "use.mts")], { cwd: folder });

  const readme = await readFile(`${root}README.md`, "utf8");
  const examples = readme.split("```js\n").slice(1).map((rest) => rest.split("```")[0]);
  assert.ok(examples.length >= 5);
  await symlink(join(root, "node_modules/ws"), join(folder, "node_modules/ws"));
  for (const [index, example] of examples.entries()) {
    await t.test(`README example ${index + 1}`, () => runExample(index, example));
  }
});

test("error codes are those of the protocol", async () => {
  const source = await readFile(`${root}src/protocol.ts`, "utf8");
  const listed = source.match(/type GatewayCode =([^;]*);/)[1].match(/\w+(?=")/g);
  const protocol = await readFile(`${root}../../docs/protocol/README.md`, "utf8");
  const table = (heading) => protocol.split(`\n## ${heading}\n`)[1].split("\n## ")[0];
  const problems = [...table("Problems").matchAll(/^\| `([a-z-]+)` \|/gm)].map(([, slug]) => slug.replaceAll("-", "_"));
  const closes = [...table("Close codes").matchAll(/^\| \d+ \| `(\w+)` \|/gm)].map(([, name]) => name);
  assert.ok(problems.length > 20 && closes.length > 10);
  assert.deepEqual([...listed].sort(), [...new Set([...problems, ...closes])].sort());
});

/** Runs an example against the gateway of this test, with a WebSocket and a token service. */
async function runExample(index, example) {
  const file = join(folder, `example-${index}.mjs`);
  await writeFile(file, `import WebSocket from "ws";
globalThis.WebSocket = WebSocket;
const realFetch = fetch;
const token = ${JSON.stringify(await gateway.token())};
globalThis.fetch = async (url, ...rest) =>
  String(url).startsWith("https://app.") ? new Response(token) : realFetch(url, ...rest);
${example.replaceAll("https://live.example.com", gateway.url)}`);
  const child = run("node", [file]);
  // Handles a rejection that comes before the `await` at the end.
  const exit = child.catch(() => {});
  let output = "";
  for (const stream of [child.child.stdout, child.child.stderr]) stream.on("data", (text) => (output += text));
  const outputs = {
    "prices.btc": "64000", 'subscribe("news")': "news!", "members.news": "hello", support: "17", Room: "p1",
  };
  const expected = Object.entries(outputs).find(([part]) => example.includes(part))[1];
  const channel = example.match(/subscribe\("([^"]+)"/)?.[1];
  const data = {
    "prices.btc": { usd: 64000, last: true }, news: "news!", "members.news": "hello", support: "a question",
  }[channel];
  const publisher = await gateway.answerReplies(17);
  try {
    await waitFor(async () => {
      if (output.includes(expected)) return true;
      if (channel) await gateway.publish(channel, data);
      await sleep(200);
    }, () => `example ${index + 1}, its output: ${output}`);
  } finally {
    child.child.kill();
    publisher.close();
    await exit;
  }
}
