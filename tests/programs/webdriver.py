"""A headless Chromium, driven by chromedriver over WebDriver, as far as a story needs it.

https://www.w3.org/TR/webdriver2/ is JSON over HTTP, so the standard library is enough.
"""

import base64
import json
import urllib.error
import urllib.request

from stage import Failure, wait_until

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key that the specification gives to references of elements
OPTIONS = (
    "--headless",
    "--no-sandbox",  # Chromium refuses to run as root with one
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # a page that names another host must not reach it
    "--window-size=1100,900",
)


class Browser:
    """One browser with one window, closed with the stage that it is on."""

    def __init__(self, stage):
        driver = stage.start("chromedriver", ["chromedriver", "--port=0"], HOME=str(stage.folder))
        port = driver.says(r"started successfully on port (\d+)").group(1)
        self.url = f"http://127.0.0.1:{port}"
        options = {"binary": "/usr/bin/chromium", "args": [*OPTIONS, f"--user-data-dir={stage.folder}/chromium"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.url += f"/session/{session['sessionId']}"
        stage.endings.callback(lambda: self.call("DELETE", ""))

    def call(self, method, path, body=None):
        """One command; its value."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as problem:
            raise Failure(f"the browser: {json.load(problem)['value']['message'].splitlines()[0]}") from None

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def script(self, source):
        """The value of a JavaScript function's body in the page."""
        return self.call("POST", "/execute/sync", {"script": source, "args": []})

    def wait_for(self, what, source):
        """Waits until a JavaScript expression is true in the page; its value."""
        return wait_until(what, lambda: self.script(f"return {source}"))

    def element(self, selector):
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})
        return f"/element/{found[ELEMENT]}"

    def type(self, selector, text):
        self.call("POST", f"{self.element(selector)}/value", {"text": text})

    def click(self, selector):
        self.call("POST", f"{self.element(selector)}/click", {})

    def complaints(self):
        """What the page wrote to the console as errors since the last time."""
        lines = self.call("POST", "/se/log", {"type": "browser"})
        return [line["message"] for line in lines if line["level"] == "SEVERE"]

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))
