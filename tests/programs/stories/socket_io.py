"""A Socket.IO chat: the server and the configuration of docs/socket-io.md."""

import types

from stage import HERE, answering, free_port, from_docs


def set_stage(stage):
    port = free_port()
    script = stage.folder / "server.js"
    script.write_text(from_docs("socket-io.md", "js", {"3000": str(port)}))
    server = answering(stage.start("chat", ["node", script]), port)
    replacements = {":8080": "127.0.0.1:0", "127.0.0.1:3000": server.address}
    proxy = stage.hawkey(configuration=from_docs("socket-io.md", "toml", replacements))

    def chat(*transports, proxy=proxy):
        stage.run("chat clients", ["node", HERE / "node/chat_clients.js", f"http://{proxy.address}", *transports])

    return types.SimpleNamespace(stage=stage, server=server, chat=chat)


def polling_then_websocket(scene):
    """Two clients begin with polling, change to WebSocket, and hear each other before and after."""
    scene.chat("polling", "websocket")


def polling_only(scene):
    """Two clients that know nothing but polling hear each other."""
    scene.chat("polling")


def websocket_only(scene):
    """Two clients that know nothing but WebSocket hear each other."""
    scene.chat("websocket")


def under_a_path_of_its_own(scene):
    """The chat works beside another program on the same host."""
    other = scene.stage.node("ws_server.js")
    proxy = scene.stage.hawkey(f"/={other.address}", f"/socket.io={scene.server.address}")
    scene.chat("polling", "websocket", proxy=proxy)
