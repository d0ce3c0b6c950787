"""Drives the page in headless Chromium, by WebDriver over HTTP with nothing but Python's own library.

usage: page.py PROGRAM SCREENSHOTS_DIR; tests/page.sh is the way to run it.
"""

import base64
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

DEADLINE = 60
CHILDREN = []


def main():
    program, shots = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    # A browser that ends may still write.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            run(program, shots, Path(folder))
        except BaseException:
            print((Path(folder) / "agent.log").read_text(), file=sys.stderr)
            raise
        finally:
            for child in reversed(CHILDREN):
                child.send_signal(signal.SIGTERM)
                try:
                    child.wait(15)
                except subprocess.TimeoutExpired:
                    child.kill()
    print("the page is in order")


def run(program, shots, work):
    world = World(program, work)
    browser = Browser(work)
    try:
        look_at(world, browser, shots)
    finally:
        browser.call("DELETE", "")


def look_at(world, browser, shots):
    nothing_is_named_without_the_token(world, browser, shots)
    the_token_leaves_the_address_at_once(world, browser)
    a_file_that_goes_up_is_shown_within_a_second(world, browser)
    what_is_going_up_is_shown_and_looks_right(world, browser, shots)
    everything_has_a_name_contrast_and_room(world, browser)
    a_failure_is_shown_with_its_reason(world, browser, shots)
    a_held_delete_is_released_with_the_token_and_not_without(world, browser, shots)
    foreign_hosts_and_origins_are_refused(world, browser)
    a_dead_agent_is_told(world, browser)
    complaints = browser.complaints()
    assert not complaints, complaints


class World:
    """A folder, the demo's endpoint, and an agent with a page."""

    def __init__(self, program, work):
        self.tree, self.state = work / "photos", work / "state"
        self.tree.mkdir()
        clean = {"HOME": str(work), "PATH": os.environ["PATH"]}
        demo = start([program, "demo", work / "demo"], clean, work / "demo.log")
        words = wait_for(lambda: re.search(
            r"AWS_ACCESS_KEY_ID=(\S+) AWS_SECRET_ACCESS_KEY=(\S+) AWS_REGION=(\S+).*?--endpoint-url (\S+).*?s3://([^/\s]+)/",
            (work / "demo.log").read_text(), re.S), "the demo's endpoint", demo)
        access, secret, region, url, bucket = words.groups()
        self.bucket = work / "demo/bucket/page"
        config = work / "config.toml"
        config.write_text(f"""
            [agent]
            listen = "127.0.0.1:0"
            state_dir = "{self.state}"
            [s3]
            endpoint_url = "{url}"
            region = "{region}"
            [upload]
            bandwidth = "256KiB/s"
            [[folder]]
            path = "{self.tree}"
            to = "s3://{bucket}/page"
            settle = "100ms"
            on_delete = "delete"
            delete_brake = {{ files = 5, window = "10m" }}
            """)
        environment = {**clean, "AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
        self.agent = start([program, "run", "-v", "--config", config], environment, work / "agent.log")
        self.log = work / "agent.log"

        def link():
            told = subprocess.run([program, "open", "--print", "--state-dir", self.state],
                                  capture_output=True, text=True, env=clean, check=False)
            return told.stdout.strip()

        self.link = wait_for(link, "the page's address", self.agent)
        self.address, self.token = self.link.split("#token=")
        assert re.fullmatch(r"[0-9a-f]{64}", self.token)
        assert (self.state / "token").stat().st_mode & 0o777 == 0o600
        assert self.token not in self.log.read_text()

    def ask(self, path, headers=None, body=None):
        """Returns status and text of what the agent answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data=data, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


class Browser:
    """One Chromium, by the WebDriver protocol."""

    def __init__(self, work):
        driver = start(["chromedriver", "--port=0"], {**os.environ, "HOME": str(work)}, work / "driver.log")
        port = wait_for(lambda: re.search(r"started successfully on port (\d+)", (work / "driver.log").read_text()), "the driver", driver)
        self.at = f"http://127.0.0.1:{port.group(1)}"
        options = {
            "binary": shutil.which("chromium"),
            "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars",
                     f"--user-data-dir={work / 'chromium'}",
                     "--host-resolver-rules=MAP evil.example 127.0.0.1, MAP other.example 127.0.0.1"],
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.at += f"/session/{session['sessionId']}"

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.at + path, data=data, method=method,
                                         headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None

    def go(self, url):
        self.call("POST", "/url", {"url": "about:blank"})
        self.call("POST", "/url", {"url": url})

    def run(self, script, *args):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(args)})

    def run_async(self, script, *args):
        return self.call("POST", "/execute/async", {"script": script, "args": list(args)})

    def text(self, selector="body"):
        # What is not shown has a text all the same.
        return self.run("""
            const it = document.querySelector(arguments[0]);
            return it?.checkVisibility() ? it.innerText : "";
            """, selector)

    def has(self, selector, text, what):
        wait_for(lambda: text in self.text(selector), what, see=lambda: self.text())

    def click(self, script):
        self.run(f"({script}).click()")

    def devtools(self, command, **params):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def look(self, width, scheme):
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
                      mobile=width < 500)
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def shoot(self, place, whole=True):
        taken = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        place.write_bytes(base64.b64decode(taken["data"]))

    def complaints(self):
        """Returns what the browser found wrong with the page, but for what the tests provoke."""
        entries = self.call("POST", "/se/log", {"type": "browser"})
        provoked = ("status of 40", "status of 503", "blocked by CORS", "ERR_CONNECTION_REFUSED", "ERR_FAILED",
                    "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "favicon")
        return [entry["message"] for entry in entries
                if entry["level"] == "SEVERE" and not any(word in entry["message"] for word in provoked)]


def looks(browser):
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            browser.look(width, scheme)
            yield width, scheme
    browser.look(1280, "light")


def nothing_is_named_without_the_token(world, browser, shots):
    (world.tree / "diary of anna.txt").write_text("dear diary")
    wait_for(lambda: (world.bucket / "diary of anna.txt").exists(), "the first object", world.agent)
    browser.look(1280, "light")
    browser.go(world.address)
    browser.has("h1", "Everything is in the bucket", "a verdict without the token")
    told = browser.text() + browser.run("return document.documentElement.outerHTML")
    for name in ("diary", str(world.tree), "s3://"):
        assert name not in told, f"{name} is shown without the token"
    assert "Names are hidden" in told
    assert browser.run("return document.querySelector('.names:not([hidden])')") is None
    for width, scheme in looks(browser):
        browser.shoot(shots / f"locked-{width}-{scheme}.png")


def the_token_leaves_the_address_at_once(world, browser):
    browser.go(world.link)
    browser.has("#recent", "diary of anna.txt", "names with the token")
    assert browser.run("return location.href") == world.address
    assert browser.run("return performance.getEntriesByType('resource').some((it) => it.name.includes(arguments[0]))", world.token) is False
    # A wrong token is said to be wrong, and nothing is shown.
    browser.run("sessionStorage.setItem('token', 'wrong')")
    browser.go(world.address)
    browser.has("#locked-why", "not the right one", "that the token is wrong")
    browser.run("document.getElementById('token').value = arguments[0]", world.token)
    browser.click("document.querySelector('#unlock button')")
    browser.has("#recent", "diary of anna.txt", "names with the token that was typed")


def a_file_that_goes_up_is_shown_within_a_second(world, browser):
    took = []
    for number in range(5):
        name = f"tide {number}.txt"
        browser.run("""
            window.seen = null;
            const list = document.getElementById("recent");
            window.watcher?.disconnect();
            window.watcher = new MutationObserver(() => {
                window.seen ??= list.innerText.includes(arguments[0]) ? Date.now() : null;
            });
            window.watcher.observe(list, { childList: true, subtree: true, characterData: true });
            """.replace("arguments[0]", json.dumps(name)))
        began = time.time()
        (world.tree / name).write_text(f"water {number}")
        seen = wait_for(lambda: browser.run("return window.seen"), f"{name} on the page", see=lambda: browser.text())
        assert (world.bucket / name).exists()
        took.append(seen / 1000 - began)
    print("shown after", ", ".join(f"{seconds:.2f} s" for seconds in took), "(settle is 0.1 s)")
    # One of them may meet a machine that is busy with other work.
    assert sorted(took)[-2] < 1.0, took


def what_is_going_up_is_shown_and_looks_right(world, browser, shots):
    (world.tree / "a long evening at the sea with everybody.mov").write_bytes(os.urandom(6 << 20))
    for number in range(8):
        (world.tree / f"photo {number}.jpg").write_bytes(os.urandom(20_000))
    browser.has("#going", "long evening", "what goes up now")
    browser.has("#recent", "photo 7.jpg", "the small ones beside it")
    time.sleep(4)  # So that the plots have a course to look at.
    for width, scheme in looks(browser):
        browser.shoot(shots / f"page-{width}-{scheme}.png")
    assert browser.run("return document.querySelector('.rate .course').getAttribute('d').length") > 20
    assert browser.run("return document.querySelector('.rate svg').getAttribute('aria-label')").startswith("Rate over the last")


NAMED = """
    const lacks = [];
    for (const it of document.querySelectorAll("button, input, a, svg, dialog, progress, section, img")) {
        const by = it.getAttribute("aria-labelledby");
        const label = it.labels?.[0]?.textContent;
        const name = it.getAttribute("aria-label") || (by && document.getElementById(by)?.textContent)
            || label || it.textContent.trim() || it.getAttribute("alt");
        if (!name && it.getAttribute("alt") !== "") lacks.push(it.outerHTML.slice(0, 200));
    }
    if (document.querySelectorAll("h1").length !== 1) lacks.push("one h1");
    for (const mark of ["header", "main", "footer"]) if (!document.querySelector(mark)) lacks.push(mark);
    if (document.querySelector("h1").getAttribute("aria-live") !== "polite") lacks.push("aria-live");
    if (!document.documentElement.lang) lacks.push("lang");
    return lacks;
"""

CONTRAST = """
    const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
    const light = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const poor = [];
    for (const it of document.querySelectorAll("body *")) {
        const own = [...it.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!own || !it.checkVisibility() || it.closest(".skip")) continue;
        let ground = it, behind = [0, 0, 0, 0];
        while (ground && behind[3] === 0) { behind = parse(getComputedStyle(ground).backgroundColor); ground = ground.parentElement; }
        const [a, b] = [light(parse(getComputedStyle(it).color)), light(behind)];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${it.outerHTML.slice(0, 120)}`);
    }
    return poor;
"""


def everything_has_a_name_contrast_and_room(world, browser):
    lacks = browser.run(NAMED)
    assert not lacks, lacks
    for width, scheme in looks(browser):
        poor = browser.run(CONTRAST)
        assert not poor, (scheme, poor)
        over = browser.run("return document.documentElement.scrollWidth - window.innerWidth")
        assert over <= 0, f"{over} pixels too wide at {width}"
    # The keyboard: the first stop leads past the head, each stop is seen.
    browser.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    press(browser, "Tab")
    assert browser.run("return document.activeElement.className") == "skip"
    press(browser, "Enter")
    assert browser.run("return document.activeElement.id") == "main"
    press(browser, "Tab")
    ring = browser.run("const s = getComputedStyle(document.activeElement); return [s.outlineStyle, s.outlineWidth]")
    assert ring == ["solid", "3px"], ring
    browser.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    assert browser.run("return document.getAnimations().length") == 0
    browser.devtools("Emulation.setEmulatedMedia", features=[])


def press(browser, key):
    code = {"Tab": 9, "Enter": 13, "Escape": 27}[key]
    extra = {"text": "\r"} if key == "Enter" else {}
    for kind in ("keyDown", "keyUp"):
        browser.devtools("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **extra)


def a_failure_is_shown_with_its_reason(world, browser, shots):
    # No S3 key is longer than 1,024 bytes.
    deep = world.tree / "/".join(["n" * 200] * 6)
    deep.mkdir(parents=True)
    (deep / "too deep.txt").write_text("x")
    browser.has("#recent", "too deep.txt", "what cannot be synced")
    assert "S3 takes at most 1024" in browser.text("#recent"), browser.text("#recent")
    browser.has("h1", "1 file is not in the bucket", "that it is not in the bucket")
    shutil.rmtree(world.tree / ("n" * 200))


def a_held_delete_is_released_with_the_token_and_not_without(world, browser, shots):
    wait_for(lambda: "Everything is in the bucket" in browser.text("h1"), "level", see=lambda: browser.text())
    names = [f"photo {number}.jpg" for number in range(8)]
    for name in names:
        (world.tree / name).unlink()
    browser.has("h1", "wait for your decision", "what is held")
    folder = {"folder": "photos", "do": "release", "held": len(names)}
    json_type = {"Content-Type": "application/json"}
    right = {"Authorization": f"Bearer {world.token}"}
    assert world.ask("api/act", json_type, folder)[0] == 401
    assert world.ask("api/act", {**json_type, "Authorization": "Bearer " + "0" * 64}, folder)[0] == 401
    assert world.ask("api/act", {**right, "Content-Type": "text/plain"}, folder)[0] == 415
    assert world.ask("api/held?folder=photos")[0] == 401
    assert world.ask("api/act", {**right, **json_type}, {**folder, "held": 3})[0] == 409
    # A page without the token has no button for it.
    token = browser.run("return sessionStorage.getItem('token')")
    browser.click("document.getElementById('forget')")
    browser.has("#locked", "Names are hidden", "that names are hidden again")
    assert browser.run("return document.querySelector('.holds button').checkVisibility()") is False
    assert "photo" not in browser.run("return document.getElementById('main').textContent").replace("photos", "")
    assert all((world.bucket / name).exists() for name in names), "something was deleted"
    browser.go(f"{world.address}#token={token}")
    browser.has(".holds", "8 deletes", "what is held, with the token")
    browser.click("document.querySelector('.holds button')")
    browser.has("#held-list", "photo 7.jpg", "the list to review")
    assert browser.run("return document.querySelectorAll('#held-list li').length") == len(names)
    for width, scheme in looks(browser):
        browser.shoot(shots / f"held-{width}-{scheme}.png", whole=False)
    press(browser, "Escape")
    assert browser.run("return document.getElementById('held').open") is False
    browser.click("document.querySelector('.holds button')")
    browser.has("#held-list", "photo 7.jpg", "the list again")
    browser.click("document.getElementById('held-release')")
    wait_for(lambda: not any((world.bucket / name).exists() for name in names), "the objects to go",
             see=lambda: browser.text())
    browser.has("h1", "Everything is in the bucket", "level again")


def foreign_hosts_and_origins_are_refused(world, browser):
    port = world.address.rstrip("/").rsplit(":", 1)[1]
    browser.go(f"http://evil.example:{port}/")
    assert "not a name of this page" in browser.text(), browser.text()

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>other</title>other")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for host in ("other.example", "localhost"):
        browser.go(f"http://{host}:{server.server_port}/")
        assert browser.text() == "other"
        got = browser.run_async("""
            const done = arguments[arguments.length - 1];
            fetch(arguments[0] + "api/state").then((it) => it.text()).then(done, (error) => done("refused: " + error));
            """, world.address)
        assert got.startswith("refused"), got
        # Not even what needs no answer to be read.
        browser.run("""
            const form = document.createElement("form");
            form.method = "post"; form.enctype = "text/plain"; form.action = arguments[0] + "api/act";
            form.innerHTML = '<input name=\\'{"folder":"photos","do":"drop","held":0,"x":"\\' value=\\'"}\\'>';
            document.body.append(form); form.submit();
            """, world.address)
        wait_for(lambda: "comes from another site" in browser.text(), "a refusal", see=lambda: browser.text())
    server.shutdown()
    for headers, status in [({"Host": "evil.example"}, 403), ({"Origin": "http://evil.example"}, 403),
                            ({"Sec-Fetch-Site": "cross-site"}, 403), ({}, 200)]:
        for path in ("", "metrics", "api/state", "healthz"):
            got = world.ask(path, headers)
            assert got[0] == status, (headers, path, got)


def a_dead_agent_is_told(world, browser):
    browser.go(world.link)
    browser.has("#link", "live", "the connection")
    world.agent.send_signal(signal.SIGTERM)
    world.agent.wait(DEADLINE)
    CHILDREN.remove(world.agent)
    browser.has("h1", "No word from the agent", "that the agent is gone")
    assert world.token not in world.log.read_text()


def start(command, environment, log):
    with open(log, "w", encoding="utf-8") as out:
        child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    CHILDREN.append(child)
    return child


def wait_for(holds, what, child=None, see=None):
    """Waits for what no event tells of."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        found = holds()
        if found:
            return found
        if child is not None and child.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"never came to be: {what}\n{see() if see else ''}")


if __name__ == "__main__":
    main()
