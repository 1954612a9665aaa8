// nginx with the configuration file that Debian installs, and one site in it; only what needs root lies elsewhere.
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { endsWithTests, freePort } from "../../../clients/js/tests/support/processes.mjs";

const DEFAULT = process.env.NGINX_CONF ?? "/etc/nginx/nginx.conf";

/** `site` is what stands in `http { }`, with `PORT` for the port of its own. */
export async function startNginx(site, { workers } = {}) {
  const folder = await mkdtemp(join(tmpdir(), "lastmile-nginx-"));
  const port = await freePort();
  let text = await readFile(DEFAULT, "utf8");
  const swap = (pattern, by) => {
    if (!pattern.test(text)) throw new Error(`${DEFAULT} has no ${pattern}`);
    text = text.replace(pattern, by);
  };
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((name) => `${name}_temp_path ${folder}/${name};`);
  const isRoot = process.getuid() === 0;
  swap(/^user .*;$/m, isRoot ? "user root;" : "");
  if (workers) swap(/^worker_processes .*;$/m, `worker_processes ${workers};`);
  swap(/^pid .*;$/m, `pid ${folder}/pid;\ndaemon off;`);
  swap(/^error_log .*;$/m, `error_log ${folder}/error.log;`);
  swap(/access_log .*;$/m, `access_log off;\n${temporary.join("\n")}`);
  swap(/include \/etc\/nginx\/sites-enabled\/\*;/, site.replaceAll("PORT", String(port)));
  const file = join(folder, "nginx.conf");
  await writeFile(file, text);
  const nginx = { url: `http://127.0.0.1:${port}`, port, folder };
  const run = async () => {
    nginx.process = spawn("nginx", ["-c", file, "-e", join(folder, "error.log")], { stdio: "inherit", detached: true });
    const { pid } = nginx.process;
    endsWithTests(nginx.process, () => process.kill(-pid, "SIGKILL"));
    await answers(port, nginx.process);
  };
  nginx.stop = async (signal = "SIGTERM") => {
    if (nginx.process.exitCode !== null || nginx.process.signalCode) return;
    const ended = new Promise((done) => nginx.process.once("exit", done));
    // Killed, its master can no longer end its workers; they are of its group.
    process.kill(signal === "SIGKILL" ? -nginx.process.pid : nginx.process.pid, signal);
    await ended;
  };
  nginx.restart = async (signal) => (await nginx.stop(signal), run());
  nginx.close = async () => (await nginx.stop(), rm(folder, { recursive: true, force: true }));
  await run();
  return nginx;
}

/** Debian's nginx as a site's administrator would first try it. */
export const nginx = (port, more = "") =>
  startNginx(`server { listen 127.0.0.1:PORT; location / { proxy_pass http://127.0.0.1:${port}; ${more} } }`);

async function answers(port, child) {
  for (let tries = 0; tries < 2000; tries++) {
    if (child.exitCode !== null) throw new Error("nginx did not start");
    const socket = connect(port, "127.0.0.1");
    const isThere = await new Promise((done) => socket.once("connect", () => done(true)).once("error", () => done(false)));
    socket.destroy();
    if (isThere) return;
    await new Promise((done) => setTimeout(done, 25));
  }
  throw new Error("nginx does not listen");
}
