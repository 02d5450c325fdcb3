"""ws of Node in front of hawkey and behind it."""

import types

from stage import HERE


def set_stage(stage):
    server = stage.node("ws_server.js")
    url = f"ws://{stage.hawkey(f'/={server.address}').address}/socket"

    def talk(conversation):
        stage.run("ws client", ["node", HERE / "node/ws_client.js", url, conversation])

    return types.SimpleNamespace(server=server, talk=talk)


def text(scene):
    """Texts of 0 to 70,000 characters come back."""
    scene.talk("text")


def binary(scene):
    """Binary messages of 0 bytes to 8 MB come back, around every border of the length field."""
    scene.talk("binary")


def compressed(scene):
    """permessage-deflate is agreed on end to end, and a message of 4 MB is sent compressed."""
    scene.talk("compressed")


def pings(scene):
    """Pings are answered in both directions."""
    scene.talk("pings")


def server_closes(scene):
    """The server's close code 4001 and its reason arrive at the client."""
    scene.talk("serverCloses")


def client_closes(scene):
    """The client's close code 4002 and its reason arrive at the server."""
    scene.talk("clientCloses")
    scene.server.says(r"^closed 4002 bye$")


def subprotocol(scene):
    """The server's choice of a subprotocol arrives at the client."""
    scene.talk("subprotocol")


def fields(scene):
    """The handshake brings the client's fields, and what hawkey adds."""
    scene.talk("fields")


def many_at_once(scene):
    """200 sockets at once each get their own answers."""
    scene.talk("manyAtOnce")
