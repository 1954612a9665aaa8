// A proxy that takes `Upgrade` and `Connection` away: the gateway sees a plain request.
export { listenHttp as stripsUpgrade } from "../lib/http_proxy.mjs";
