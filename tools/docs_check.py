"""Opens every page of the site in headless Chromium, wide and narrow.

On each page: formulas, tables and images are rendered, nothing is wider than
the page, the console has no error, no file is missing and no request leaves
the site. On the playground, keys that move a slider change its figure. The
screenshots are in site-screenshots/.
"""

import functools
import http.server
import pathlib
import shutil
import sys
import threading
import urllib.parse

from playwright import sync_api

ROOT = pathlib.Path(__file__).parents[1]
SITE = ROOT / "site"
SCREENSHOTS = ROOT / "site-screenshots"

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}

# Looked at in the dark too.
DARK = ("/", "/playground/")

CHROMIUM = ("chromium", "google-chrome")

# Waits for fonts and images, those below the fold too.
SETTLED = """async () => {
  await document.fonts.ready;
  const images = [...document.images];
  images.forEach((image) => { image.loading = "eager"; });
  await Promise.allSettled(images.map((image) => image.decode()));
}"""

# What is wrong with a page, as the browser sees it.
FAULTS = """() => {
  const faults = [];
  document.querySelectorAll("article .arithmatex").forEach((formula) => {
    const box = formula.querySelector(".katex")?.getBoundingClientRect();
    if (!box || box.width === 0)
      faults.push(`formula not rendered: ${formula.textContent}`);
  });
  document.querySelectorAll(".katex-error").forEach((formula) =>
    faults.push(`formula with an error: ${formula.textContent}`));
  document.querySelectorAll("article img").forEach((image) => {
    if (!image.complete || image.naturalWidth === 0)
      faults.push(`image not shown: ${image.src}`);
  });
  document.querySelectorAll("article table").forEach((table) => {
    if (table.getBoundingClientRect().height === 0)
      faults.push("a table is not shown");
  });
  const text = (document.querySelector("article") ?? document.body)
    .cloneNode(true);
  text.querySelectorAll("pre, code, .katex").forEach((part) => part.remove());
  const raw = text.textContent.match(/\\$\\$|\\\\tag|\\|---|--8<--|:::/);
  if (raw) faults.push(`source is shown: ${raw[0]}`);
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  if (wide > 1) faults.push(`${wide} px wider than the window`);
  return faults;
}"""

# A site without one of them has lost them all.
COUNTED = {"formulas": ".katex", "tables": "article table", "images": "img"}


class Server(http.server.ThreadingHTTPServer):
    """Serves the site on a port of its own."""

    def __init__(self) -> None:
        handler = functools.partial(Handler, directory=str(SITE))
        super().__init__(("127.0.0.1", 0), handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves without a word."""

    def log_message(self, *args: object) -> None:
        pass


def watch(page: sync_api.Page, origin: str, faults: list[str]) -> None:
    """Notes what goes wrong while pages load."""

    def on_request(request: sync_api.Request) -> None:
        if not request.url.startswith((origin, "data:", "blob:" + origin)):
            faults.append(f"{page.url}: request leaves the site: {request.url}")

    def on_response(response: sync_api.Response) -> None:
        if response.status >= 400:
            faults.append(f"{page.url}: {response.status} {response.url}")

    def on_console(message: sync_api.ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            faults.append(f"{page.url}: console: {message.text}")

    page.on("request", on_request)
    page.on("response", on_response)
    page.on("console", on_console)
    page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))


def links_of(page: sync_api.Page, origin: str) -> set[str]:
    """Returns the paths of the site that a page links to."""
    hrefs = page.eval_on_selector_all(
        "a[href]", "links => links.map((link) => link.href)"
    )
    urls = [urllib.parse.urlsplit(href) for href in hrefs]
    return {
        url.path for url in urls if f"{url.scheme}://{url.netloc}" == origin
    }


def check_page(page: sync_api.Page, name: str, width: str) -> list[str]:
    """Returns the faults of the page that is open, and photographs it."""
    page.evaluate(SETTLED)
    file = (name.strip("/").replace("/", "-") or "index") + ".png"
    (SCREENSHOTS / width).mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / width / file, full_page=True)
    return [f"{name} ({width}): {fault}" for fault in page.evaluate(FAULTS)]


def check_navigation(page: sync_api.Page, origin: str, width: str) -> list[str]:
    """Goes from the first page to another one, as a reader does."""
    page.goto(origin + "/")
    if width == "phone":
        page.locator("label.md-header__button[for=__drawer]").click()
    link = page.locator(".md-nav--primary a[href*='troubleshooting']").first
    if width == "phone":
        for label in page.locator(
            ".md-nav--primary label.md-nav__link:visible"
        ).all():
            if "Training and after" in label.inner_text():
                label.click()
                break
    link.click()
    page.wait_for_url("**/troubleshooting/")
    heading = page.locator("article h1").inner_text()
    if not heading.startswith("Troubleshooting"):
        return [f"navigation ({width}): came to {heading!r}"]
    return []


def check_playground(page: sync_api.Page, width: str) -> list[str]:
    """Moves every slider by a key, and presses every button."""
    faults = []
    for panel in page.locator(".kg-panel").all():
        figures = page.locator(f"#{panel.get_attribute('data-figure')}")
        for control in panel.locator("input, button").all():
            before = figures.inner_html()
            control.focus()
            button = control.evaluate("control => control.type") == "button"
            page.keyboard.press("Enter" if button else "ArrowRight")
            if figures.inner_html() == before:
                name = control.get_attribute("id")
                faults.append(f"{name} ({width}): the figure stays as it is")
    if page.locator(".kg-figure svg").count() != 4:
        faults.append(f"playground ({width}): not four figures")
    return faults


def check_site(browser: sync_api.Browser, origin: str, width: str) -> list[str]:
    """Opens all pages at one width and returns their faults."""
    across, down = WIDTHS[width]
    viewport = sync_api.ViewportSize(width=across, height=down)
    context = browser.new_context(viewport=viewport, color_scheme="light")
    page = context.new_page()
    faults: list[str] = []
    watch(page, origin, faults)
    found = dict.fromkeys(COUNTED, 0)
    seen: set[str] = set()
    ahead = {"/"}
    while ahead:
        name = ahead.pop()
        seen.add(name)
        page.goto(origin + name)
        faults += check_page(page, name, width)
        for kind, selector in COUNTED.items():
            found[kind] += page.locator(selector).count()
        if name == "/playground/":
            faults += check_playground(page, width)
        links = {link for link in links_of(page, origin) if _is_page(link)}
        ahead |= links - seen
    built = {
        "/" + path.parent.relative_to(SITE).as_posix().strip(".") + "/"
        for path in SITE.rglob("index.html")
    }
    built = {name.replace("//", "/") for name in built}
    faults += [f"{name}: no link leads there" for name in built - seen]
    faults += [f"no {kind} on the site" for kind, n in found.items() if n == 0]
    faults += check_navigation(page, origin, width)
    context.close()
    dark = browser.new_context(viewport=viewport, color_scheme="dark")
    page = dark.new_page()
    watch(page, origin, faults)
    for name in DARK:
        page.goto(origin + name)
        faults += check_page(page, name, f"{width}-dark")
    dark.close()
    print(f"{width}: {len(seen)} pages, {found}")
    return faults


def _is_page(link: str) -> bool:
    return link.endswith("/") or "." not in link.rpartition("/")[2]


def main() -> None:
    """Checks both widths; exits with the faults."""
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if chromium is None:
        raise SystemExit("No Chromium here: apt-get install chromium.")
    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    server = Server()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"]
        )
        faults = [
            fault
            for width in WIDTHS
            for fault in check_site(browser, server.origin, width)
        ]
        browser.close()
    for fault in sorted(set(faults)):
        print(fault)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
