// nginx with the configuration file that Debian installs and one site. Paths that need root are replaced.
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { killOnExit, freePort } from "../../../clients/js/tests/support/processes.mjs";

const CONFIG = process.env.NGINX_CONF ?? "/etc/nginx/nginx.conf";

/** `site` is the content of `http { }`. `PORT` in it stands for nginx's own port. */
export async function startNginx(site, { workers } = {}) {
  const folder = await mkdtemp(join(tmpdir(), "lastmile-nginx-"));
  const port = await freePort();
  let text = await readFile(CONFIG, "utf8");
  const replace = (pattern, replacement) => {
    if (!pattern.test(text)) throw new Error(`${CONFIG} has no ${pattern}`);
    text = text.replace(pattern, replacement);
  };
  const modules = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
  const temporaryPaths = modules.map((name) => `${name}_temp_path ${folder}/${name};`);
  const isRoot = process.getuid() === 0;
  replace(/^user .*;$/m, isRoot ? "user root;" : "");
  if (workers) replace(/^worker_processes .*;$/m, `worker_processes ${workers};`);
  replace(/^pid .*;$/m, `pid ${folder}/pid;\ndaemon off;`);
  replace(/^error_log .*;$/m, `error_log ${folder}/error.log;`);
  replace(/access_log .*;$/m, `access_log off;\n${temporaryPaths.join("\n")}`);
  replace(/include \/etc\/nginx\/sites-enabled\/\*;/, site.replaceAll("PORT", String(port)));
  const file = join(folder, "nginx.conf");
  await writeFile(file, text);
  const nginx = { url: `http://127.0.0.1:${port}`, port, folder };
  const run = async () => {
    nginx.process = spawn("nginx", ["-c", file, "-e", join(folder, "error.log")], { stdio: "inherit", detached: true });
    const { pid } = nginx.process;
    killOnExit(nginx.process, () => process.kill(-pid, "SIGKILL"));
    await waitUntilListening(port, nginx.process);
  };
  nginx.stop = async (signal = "SIGTERM") => {
    if (nginx.process.exitCode !== null || nginx.process.signalCode) return;
    const ended = new Promise((done) => nginx.process.once("exit", done));
    // After SIGKILL the master cannot stop its workers, so the whole process group is killed.
    process.kill(signal === "SIGKILL" ? -nginx.process.pid : nginx.process.pid, signal);
    await ended;
  };
  nginx.restart = async (signal) => (await nginx.stop(signal), run());
  nginx.close = async () => (await nginx.stop(), rm(folder, { recursive: true, force: true }));
  await run();
  return nginx;
}

/** nginx with `proxy_pass` and no other proxy setting, unless in `more`. */
export const openNginxProxy = (port, more = "") =>
  startNginx(`server { listen 127.0.0.1:PORT; location / { proxy_pass http://127.0.0.1:${port}; ${more} } }`);

async function waitUntilListening(port, child) {
  for (let tries = 0; tries < 2000; tries++) {
    if (child.exitCode !== null) throw new Error("nginx did not start");
    const socket = connect(port, "127.0.0.1");
    const isListening = await new Promise((done) => {
      socket.once("connect", () => done(true)).once("error", () => done(false));
    });
    socket.destroy();
    if (isListening) return;
    await new Promise((done) => setTimeout(done, 25));
  }
  throw new Error("nginx does not listen");
}
