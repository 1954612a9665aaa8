// A real OpenID provider for the tests (npm oidc-provider): on loopback, with its development pages for login and consent.
//
// CLIENTS (JSON, the provider's own words) says who may use it. It prints one line of JSON, {"issuer": …}, and is told
// things at POST /control (JSON): {"rotate": true} new keys, the old one is still published · {"forget": true} the old
// keys are gone · {"delay_ms": n} every answer waits · {"down": true} every answer is a 503 · {"access_secs": n} life of
// access tokens from now on. GET /control counts the requests by path. Ends when its input ends.
import { createServer } from "node:http";
import { generateKeyPairSync, randomUUID } from "node:crypto";
import Provider from "oidc-provider";

const clients = JSON.parse(process.env.CLIENTS ?? "[]");
const state = { delay_ms: 0, down: false, access_secs: 3600 };
const requests = {};
let keys = [newKey()];
let provider;

const server = createServer(async (request, response) => {
  const path = request.url.split("?")[0];
  if (path === "/control") return control(request, response);
  requests[path] = (requests[path] ?? 0) + 1;
  if (state.delay_ms > 0) await new Promise((done) => setTimeout(done, state.delay_ms));
  if (state.down) return response.writeHead(503).end();
  return provider.callback()(request, response);
});

server.listen(0, "127.0.0.1", () => {
  start();
  console.log(JSON.stringify({ issuer: issuer() }));
});
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));

function issuer() {
  return `http://127.0.0.1:${server.address().port}`;
}

function newKey() {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return { ...privateKey.export({ format: "jwk" }), use: "sig", alg: "ES256", kid: randomUUID() };
}

// Sessions and grants live on: the adapter's memory is the process's.
function start() {
  provider = new Provider(issuer(), {
    clients: clients.map((client) => ({ id_token_signed_response_alg: "ES256", ...client })),
    jwks: { keys },
    // Its own one goes to no special address, and the gateway of a test is on loopback.
    fetch: (url, { dispatcher: _guard, ...options }) => fetch(url, options),
    cookies: { keys: ["only a test"] },
    scopes: ["openid", "profile", "read"],
    claims: { openid: ["sub", "groups", "tenant"], profile: ["name"] },
    conformIdTokenClaims: false,
    findAccount: (_context, id) => ({
      accountId: id,
      claims: () => ({ sub: id, name: `${id} of the tests`, groups: ["staff"], tenant: "acme" }),
    }),
    ttl: { Session: 3600, Grant: 3600, Interaction: 3600, IdToken: 3600, AccessToken: () => state.access_secs },
    features: {
      devInteractions: { enabled: true },
      backchannelLogout: { enabled: true },
      clientCredentials: { enabled: true },
      rpInitiatedLogout: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: () => ({
          scope: "read", audience: "lastmile", accessTokenFormat: "jwt", accessTokenTTL: state.access_secs,
          jwt: { sign: { alg: "ES256" } },
        }),
      },
    },
  });
  provider.on("server_error", (_context, error) => console.error(error));
  provider.on("backchannel.error", (_context, error) => console.error(error));
}

async function control(request, response) {
  if (request.method === "GET") return response.end(JSON.stringify(requests));
  let text = "";
  for await (const chunk of request) text += chunk;
  const { rotate, forget, ...change } = JSON.parse(text);
  Object.assign(state, change);
  if (rotate) keys = [newKey(), keys[0]];
  if (forget) keys = [newKey()];
  if (rotate || forget) start();
  return response.end("{}");
}
