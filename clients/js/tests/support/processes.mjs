// Child processes that end with the tests, and free ports.
import { createServer } from "node:net";

// The test runner stops a file that takes too long with a signal. Exit normally then, so that `exit` handlers run.
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));

const killers = new Map();
process.once("exit", () => killers.forEach((kill) => kill()));

/** Kills `child` when the tests exit. `kill` replaces SIGKILL for processes with children of their own. */
export function killOnExit(child, kill = () => child.kill("SIGKILL")) {
  killers.set(child, kill);
  child.once("exit", () => killers.delete(child));
  return child;
}

export async function stopProcess(child, signal = "SIGTERM") {
  if (child.exitCode !== null || child.signalCode) return;
  const exit = new Promise((done) => child.once("exit", done));
  child.kill(signal);
  await exit;
}

/** A port for a server whose port must be known before it starts. It is below the range of ephemeral ports, so no
 * outgoing connection takes it in between. */
export async function freePort() {
  for (;;) {
    const port = 11_000 + Math.floor(Math.random() * 19_000);
    const server = createServer();
    const isFree = await new Promise((done) => {
      server.once("error", () => done(false)).listen(port, "127.0.0.1", () => done(true));
    });
    if (!isFree) continue;
    await new Promise((closed) => server.close(closed));
    return port;
  }
}
