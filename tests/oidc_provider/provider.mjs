// An OpenID provider for tests (npm oidc-provider) on loopback, with its development pages for login and consent.
//
// CLIENTS has its clients, as JSON in the format of oidc-provider. It prints one line of JSON, {"issuer": …}, and
// exits when its standard input ends. POST /control changes its behaviour, by a JSON object with these members:
//   {"rotate": true}     new signing key; the previous one is still published
//   {"forget": true}     new signing key; the previous ones are removed
//   {"delay_ms": n}      delays every response
//   {"down": true}       every response is a 503
//   {"access_secs": n}   lifetime of new access tokens
// GET /control returns the number of requests for each path.
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

// Sessions and grants survive a restart of the provider: its default adapter stores them in this process's memory.
function start() {
  provider = new Provider(issuer(), {
    clients: clients.map((client) => ({ id_token_signed_response_alg: "ES256", ...client })),
    jwks: { keys },
    // The default refuses loopback addresses, where the gateway under test is.
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
