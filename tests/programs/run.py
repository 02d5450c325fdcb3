#!/usr/bin/env python3
"""Runs real programs in front of and behind a real hawkey, and tells what came of it.

Each file of stories/ is a story: `set_stage(stage)` starts its programs and gives what the checks need; every function after
it is a check, told by the first line of its docstring. The last line is `N passed, N failed`.
"""

import argparse
import importlib
import inspect
import pathlib
import signal
import sys
import time
import traceback

from stage import HERE, Failure, Stage

STORIES = (
    "curl",
    "nginx_upstream",
    "node_ws",
    "python_websockets",
    "socket_io",
    "server_sent_events",
    "behind_tls",
    "demo_page",
    "terminal",
)


def main():
    target = HERE.parent.parent / "target"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default, what in (
        ("--hawkey", "release/hawkey", "the binary"),
        ("--demo", "release/examples/demo", "the demo's binary"),
        ("--modules", "programs/node_modules", "what npm installed"),
        ("--pictures", "programs", "where the screenshot goes"),
    ):
        parser.add_argument(name, default=target / default, type=lambda text: pathlib.Path(text).absolute(), help=what)
    parser.add_argument("story", nargs="*", help=f"only these of {', '.join(STORIES)}")
    tools = parser.parse_args()
    for name in tools.story:
        if name not in STORIES:
            parser.error(f"there is no story {name}")
    for path in (tools.hawkey, tools.demo, tools.modules):
        if not path.exists():
            parser.error(f"there is no {path}: scripts/check builds and installs all that the stories need")

    # A runner that is told to end must still end what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    passed = failed = 0
    for name in tools.story or STORIES:
        for good in play(importlib.import_module(f"stories.{name}"), tools):
            passed += good
            failed += not good
    print(f"\n{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


def play(story, tools):
    """Plays one story; yields for each of its checks whether it held, and last whether hawkey ended well."""
    print(f"\n{story.__doc__.splitlines()[0]}", flush=True)
    stage = Stage(tools)
    with stage.endings:
        scene, started = attempt("The programs start", stage, lambda: story.set_stage(stage))
        if not started:
            yield False
            return
        for check in checks_of(story):
            what = check.__doc__.splitlines()[0].rstrip(".")
            yield attempt(what, stage, lambda check=check: check(scene))[1]
        yield attempt("What was started ends, and hawkey as asked", stage, stage.endings.close)[1]


def checks_of(story):
    """The functions that a story defines below `set_stage`, in the order of the file."""
    functions = [f for _, f in inspect.getmembers(story, inspect.isfunction) if f.__module__ == story.__name__]
    functions.sort(key=lambda f: f.__code__.co_firstlineno)
    start = functions.index(story.set_stage)
    return [f for f in functions[start + 1 :] if not f.__name__.startswith("_")]


def attempt(what, stage, action):
    """Runs `action` and prints how it went; its value, and whether it ended well."""
    begin = time.monotonic()
    try:
        value = action()
    except Exception as problem:
        print(f"  FAILED  {what}: {problem if isinstance(problem, Failure) else traceback.format_exc()}", flush=True)
        for line in stage.last_words():
            print(f"          {line}", flush=True)
        return None, False
    print(f"  ok      {what} ({time.monotonic() - begin:.2f} s)", flush=True)
    return value, True


if __name__ == "__main__":
    sys.exit(main())
