"""hawkey in a terminal that nobody reads, as behind Ctrl-S or in the copy mode of tmux."""

import contextlib
import http.client
import os
import pty
import re
import types

from stage import end_well, expect, wait_until

REQUESTS = 2000


def set_stage(stage):
    terminal, inside = pty.openpty()
    stage.endings.callback(os.close, terminal)
    os.set_blocking(terminal, False)
    seen = bytearray()

    def look(pattern):
        # Reading takes what is there; until hawkey writes again there may be nothing.
        with contextlib.suppress(BlockingIOError):
            while some := os.read(terminal, 65536):
                seen.extend(some)
        return re.search(pattern, seen)

    command = ["sh", "-c", 'exec "$0" "$@" 2>"$TERMINAL"', stage.tools.hawkey, "--control", "off", "127.0.0.1:0", "/elsewhere=127.0.0.1:1"]
    program = stage.start("hawkey", command, TERMINAL=os.ttyname(inside))
    found = wait_until("hawkey listens", lambda: look(rb"\blistening=(127\.0\.0\.1:\d+)"))
    os.close(inside)
    stage.endings.callback(end_well, program)
    program.address = found.group(1).decode()
    client = http.client.HTTPConnection(program.address, timeout=10)
    stage.endings.callback(client.close)

    def ask():
        # The target makes the line of each request long.
        client.request("GET", "/" + "x" * 1000)
        answer = client.getresponse()
        answer.read()
        return answer.status

    return types.SimpleNamespace(ask=ask, look=look)


def unread(scene):
    """Nobody reads the terminal, and every request is answered."""
    for number in range(REQUESTS):
        expect(f"the answer to request {number}", 404, scene.ask())


def read_again(scene):
    """Whoever reads it again is told how many lines were lost."""

    def look():
        # Lines are written when there is something to do.
        scene.ask()
        return scene.look(rb"lost_lines=\d+")

    wait_until("the log goes on", look)
