"""The demo page in headless Chromium."""

import types

from stage import end_well, expect, expect_in
from webdriver import Browser


def set_stage(stage):
    demo = stage.start("demo", [stage.tools.demo, "127.0.0.1:0"])
    url = demo.says(r"(http://127\.0\.0\.1:\d+\S*)").group(1)
    stage.endings.callback(end_well, demo)
    browser = Browser(stage)
    browser.open(url)
    return types.SimpleNamespace(browser=browser, pictures=stage.tools.pictures)


def tunnel_opens(scene):
    """The page opens its WebSocket."""
    scene.browser.wait_for("the state says open", "document.querySelector('#state').textContent.trim() === 'open'")


def message_comes_back(scene):
    """A message that is typed comes back through the tunnel, with its round-trip time."""
    scene.browser.type("#message", "Hello, hawkey! Grüße")
    scene.browser.click("#send")
    text = scene.browser.wait_for("an echo is in the log", "document.querySelector('#log .echo')?.textContent")
    expect_in("the echo", "Hello, hawkey! Grüße", text)
    rtt = scene.browser.wait_for("the echo has a time", "document.querySelector('#log .echo .rtt')?.textContent")
    expect(f"whether {rtt!r} has a number", True, any(letter.isdigit() for letter in rtt))


def second_message(scene):
    """A second message comes back as well."""
    scene.browser.type("#message", "once more")
    scene.browser.click("#send")
    scene.browser.wait_for(
        "the second echo is in the log",
        "[...document.querySelectorAll('#log .echo')].some((echo) => echo.textContent.includes('once more'))",
    )


def added_fields(scene):
    """The page tells what hawkey added to the request."""
    text = scene.browser.wait_for("fields are told", "document.querySelector('#added').textContent.trim()")
    expect_in("the fields", "x-real-ip", text.lower())
    expect_in("the fields", "127.0.0.1", text)


def ticks(scene):
    """Server-sent events arrive while the page is open."""
    first = scene.browser.wait_for("a tick came", "document.querySelector('#ticks').textContent.trim()")
    scene.browser.wait_for("another tick came", f"document.querySelector('#ticks').textContent.trim() !== {first!r}")


def picture(scene):
    """The page has written no error to the console; a screenshot is in target/."""
    expect("the errors on the console", [], scene.browser.complaints())
    scene.pictures.mkdir(parents=True, exist_ok=True)
    scene.browser.screenshot(scene.pictures / "demo.png")
