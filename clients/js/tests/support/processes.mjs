// What tests that start programs have in common.
import { createServer } from "node:net";

// As a test that takes too long is stopped; without this there is no exit of its own.
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));

/** Whoever stops the tests stops the program as well; with `end` where killing it alone is not enough. */
export function endsWithTests(child, end = () => child.kill("SIGKILL")) {
  process.once("exit", end);
  child.once("exit", () => process.off("exit", end));
  return child;
}

/** A port for a program whose port must be known before it listens. The system gives none of these to a connection that
 * goes out, so nobody has it meanwhile. */
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
