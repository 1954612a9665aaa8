// Comparison server: native µWebSockets with its own publish/subscribe. Same paths as the floor.
#include <App.h>

#include <cstdlib>
#include <string>

struct Session {
    std::string path;
};

int main(int, char **argv) {
    const int port = std::atoi(argv[1]);
    uWS::App app;
    app.ws<Session>("/*", {
        .compression = uWS::DISABLED,
        .maxPayloadLength = 1024 * 1024,
        .idleTimeout = 32,
        .maxBackpressure = 1024 * 1024,
        .closeOnBackpressureLimit = true,
        .sendPingsAutomatically = true,
        .upgrade = [](auto *res, auto *req, auto *context) {
            res->template upgrade<Session>({std::string(req->getUrl())}, req->getHeader("sec-websocket-key"),
                req->getHeader("sec-websocket-protocol"), req->getHeader("sec-websocket-extensions"), context);
        },
        .open = [](auto *ws) {
            const std::string &path = ws->getUserData()->path;
            if (path != "/pub") ws->subscribe(path);
        },
        .message = [&app](auto *ws, std::string_view message, uWS::OpCode opCode) {
            const std::string &path = ws->getUserData()->path;
            if (path == "/pub") {
                app.publish("/sub", message, opCode);
            } else if (path != "/sub") {
                ws->publish(path, message, opCode);
            }
        },
    });
    app.listen("127.0.0.1", port, [](auto *socket) {
        if (!socket) std::exit(1);
    });
    app.run();
}
