"""Opens every page of the site in headless Chromium, as readers do.

Each page is looked at wide and narrow, in light and in dark: formulas, tables
and images are rendered, text stands out, no picture is a white slab on a dark
page, nothing is wider than the page, and on a wide page no table is clipped and
no number broken. The console has no error, no file is missing, no request
leaves the site, and every link leads to a page, a heading or a file that is
there. The words that people search for find the page that they want. On the
playground, keys that move a slider change its figure. The screenshots are in
site-screenshots/.
"""

import concurrent.futures
import functools
import http.server
import pathlib
import re
import shutil
import sys
import threading
import tomllib
import urllib.parse

from playwright import sync_api

ROOT = pathlib.Path(__file__).parents[1]
SITE = ROOT / "site"
SCREENSHOTS = ROOT / "site-screenshots"

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
SCHEMES = ("light", "dark")

CHROMIUM = ("chromium", "google-chrome")

# What people type, and the pages of which one has to be the first result.
SEARCHES = {
    "pruning": ("/quickstart_sparsify/", "/pretrained/", "/channels/"),
    "structured": ("/channels/",),
    "feature selection": ("/features/", "/benchmarks/features/"),
    "pretrained": ("/pretrained/", "/benchmarks/pretrained/"),
    "EarlyStopping": ("/callbacks/",),
    "tflite": ("/export/",),
    "lottery ticket": ("/glossary/", "/sparsity/"),
    "citation": ("/",),
    "sklearn": ("/features/", "/quickstart_sparsify/", "/"),
}

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
  const article = document.querySelector("article") ?? document.body;
  const shown = (element) => element.checkVisibility();
  article.querySelectorAll(".arithmatex").forEach((formula) => {
    const box = formula.querySelector(".katex")?.getBoundingClientRect();
    if (!box || box.width === 0)
      faults.push(`formula not rendered: ${formula.textContent}`);
  });
  document.querySelectorAll(".katex-error").forEach((formula) =>
    faults.push(`formula with an error: ${formula.textContent}`));
  const images = [...article.querySelectorAll("img")];
  images.forEach((image) => {
    if (shown(image) && (!image.complete || image.naturalWidth === 0))
      faults.push(`image not shown: ${image.src}`);
    if (!image.alt) faults.push(`image without words: ${image.src}`);
  });
  const tables = [...article.querySelectorAll("table")];
  tables.forEach((table) => {
    if (table.getBoundingClientRect().height === 0)
      faults.push("a table is not shown");
  });
  const text = article.cloneNode(true);
  text.querySelectorAll("pre, code, .katex").forEach((part) => part.remove());
  const raw = text.textContent.match(/\\$\\$|\\\\tag|\\|---|--8<--|:::/);
  if (raw) faults.push(`source is shown: ${raw[0]}`);
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  if (wide > 1) faults.push(`${wide} px wider than the window`);

  // On a wide page.
  if (window.innerWidth > 1000) tables.forEach((table) => {
    const frame = table.parentElement;
    const head = table.textContent.trim().slice(0, 40);
    if (frame.scrollWidth > frame.clientWidth + 1)
      faults.push(`a table is clipped: ${head}`);
    table.querySelectorAll("td").forEach((cell) => {
      const words = cell.textContent.trim();
      if (!/^[-+]?[\\d.,]+[^a-zA-Z]*$/.test(words)) return;
      const range = document.createRange();
      range.selectNodeContents(cell);
      const lines = new Set([...range.getClientRects()]
        .filter((box) => box.width > 0)
        .map((box) => Math.round(box.bottom / 4)));
      if (lines.size > 1) faults.push(`a number is broken: ${words}`);
    });
  });

  // The contrast of text with what is behind it.
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d", {willReadFrequently: true});
  const parsed = new Map();
  const rgba = (color) => {
    if (!parsed.has(color)) {
      context.clearRect(0, 0, 1, 1);
      context.fillStyle = color;
      context.fillRect(0, 0, 1, 1);
      parsed.set(color, [...context.getImageData(0, 0, 1, 1).data]);
    }
    return parsed.get(color);
  };
  const luminance = (color) => {
    const [r, g, b] = color.slice(0, 3).map((channel) => {
      const c = channel / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const over = ([r, g, b, alpha], below) => [r, g, b]
    .map((c, i) => (c * alpha + below[i] * (255 - alpha)) / 255);
  const ground = (element) =>
    rgba(getComputedStyle(element).backgroundColor);
  const behind = (element) => {
    if (!element) return ground(document.body);
    const color = ground(element);
    return color[3] === 255
      ? color : over(color, behind(element.parentElement));
  };
  const faint = new Set();
  article.querySelectorAll("p, li, td, th, h1, h2, h3, a, code").forEach(
    (element) => {
      if (!shown(element) || !element.textContent.trim()) return;
      if (element.matches(".headerlink, .md-button, [aria-hidden] *")) return;
      const below = behind(element);
      const ink = over(rgba(getComputedStyle(element).color), below);
      const [a, b] = [luminance(ink), luminance(below)];
      const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (contrast < 4) faint.add(`${element.tagName} ${contrast.toFixed(1)}`);
    });
  if (faint.size) faults.push(`text is faint: ${[...faint].join(", ")}`);

  // A picture that is bright to its corners does not suit a dark page.
  const dark = document.body.dataset.mdColorScheme === "slate";
  const dimmed = (image) =>
    /invert|brightness/.test(getComputedStyle(image).filter);
  if (dark) images.filter(shown).forEach((image) => {
    if (dimmed(image)) return;
    context.clearRect(0, 0, 1, 1);
    context.drawImage(image, 0, 0, 4, 4, 0, 0, 1, 1);
    const corner = [...context.getImageData(0, 0, 1, 1).data];
    if (corner[3] > 127 && luminance(corner) > 0.5)
      faults.push(`a bright picture on a dark page: ${image.src}`);
  });
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


def links_of(page: sync_api.Page) -> set[str]:
    """Returns the addresses that a page links to."""
    links = page.eval_on_selector_all(
        "a[href]", "links => links.map((link) => link.href)"
    )
    return set(links)


def path_of(link: str, origin: str) -> str | None:
    """Returns the path of a page of the site, or nothing."""
    url = urllib.parse.urlsplit(link)
    if f"{url.scheme}://{url.netloc}" != origin:
        return None
    last = url.path.rpartition("/")[2]
    return url.path if "." not in last else None


@functools.cache
def anchors(path: str) -> frozenset[str]:
    """Returns what a link to a page of the site can point at."""
    text = (SITE / path.lstrip("/") / "index.html").read_text()
    return frozenset(re.findall(r'\s(?:id|name)="?([^"\s>]+)', text))


def repository_url() -> str:
    """Reads the address of the repository."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]["urls"]["Repository"]


def fault_of_link(link: str, origin: str) -> str | None:
    """Returns what is wrong with a link, if anything is."""
    link = urllib.parse.unquote(link)
    url = urllib.parse.urlsplit(link)
    if f"{url.scheme}://{url.netloc}" == origin:
        path = path_of(link, origin)
        if path is None:
            return None if (SITE / url.path.lstrip("/")).exists() else "no file"
        if not (SITE / path.lstrip("/") / "index.html").exists():
            return "no page"
        if url.fragment and url.fragment not in anchors(path):
            return None if url.fragment.startswith("__") else "no anchor"
        return None
    inside = re.match(
        re.escape(repository_url()) + r"/(?:blob|edit|raw)/main/([^#?]+)", link
    )
    if inside and not (ROOT / inside[1]).exists():
        return "no file in the repository"
    return None if url.scheme in ("https", "mailto") else "not https"


def check_page(page: sync_api.Page, name: str, width: str) -> list[str]:
    """Returns the faults of the page that is open, in light and in dark."""
    faults = []
    file = (name.strip("/").replace("/", "-") or "index") + ".jpeg"
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        page.evaluate(SETTLED)
        page.screenshot(
            path=SCREENSHOTS / f"{width}-{scheme}" / file,
            full_page=True,
            quality=70,
            type="jpeg",
        )
        faults += [
            f"{name} ({width}, {scheme}): {fault}"
            for fault in page.evaluate(FAULTS)
        ]
    page.emulate_media(color_scheme="light")
    return faults


def check_navigation(page: sync_api.Page, origin: str, width: str) -> list[str]:
    """Goes from the first page to another one, as a reader does."""
    page.goto(origin + "/")
    if width == "phone":
        page.locator("label.md-header__button[for=__drawer]").click()
        link = ".md-nav--primary a[href*='troubleshooting']"
    else:
        for tab in ("Guides", "Start"):
            page.locator(".md-tabs a", has_text=tab).click()
            page.locator(".md-tabs__item--active", has_text=tab).wait_for()
        link = ".md-sidebar--primary a[href*='troubleshooting']"
    page.locator(link).first.click()
    page.wait_for_url("**/troubleshooting/")
    heading = page.locator("article h1").inner_text()
    if not heading.startswith("Troubleshooting"):
        return [f"navigation ({width}): came to {heading!r}"]
    return []


def check_search(page: sync_api.Page, origin: str) -> list[str]:
    """Types words into the search box and looks at the first result."""
    faults = []
    for words, expected in SEARCHES.items():
        page.goto(origin + "/")
        page.locator(".md-search__button").click()
        page.locator("input[role=combobox]").press_sequentially(words)
        first = page.locator("[role=option]").first
        try:
            first.wait_for(timeout=10_000)
        except sync_api.TimeoutError:
            faults.append(f"search: nothing is found for {words!r}")
            continue
        page.wait_for_timeout(300)  # until the last letter has counted
        link = first.evaluate(
            "option => (option.closest('a') ?? option.querySelector('a')).href"
        )
        found = path_of(link, origin)
        if found not in expected:
            faults.append(f"search: {words!r} finds {found} first")
    return faults


def check_not_found(page: sync_api.Page, origin: str) -> list[str]:
    """A page for addresses that lead nowhere says where to go."""
    page.goto(origin + "/404.html")
    words = page.locator("article").inner_text()
    return [] if len(words.split()) > 10 else ["404.html says nothing"]


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


def check_site(chromium: str, width: str) -> list[str]:
    """Opens all pages at one width and returns their faults."""
    server = Server()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"]
        )
        faults = check_pages(browser, server.origin, width)
        browser.close()
    return faults


def check_pages(
    browser: sync_api.Browser, origin: str, width: str
) -> list[str]:
    """Follows every link from the first page, and looks at each page."""
    across, down = WIDTHS[width]
    viewport = sync_api.ViewportSize(width=across, height=down)
    context = browser.new_context(viewport=viewport, color_scheme="light")
    page = context.new_page()
    faults: list[str] = []
    watch(page, origin, faults)
    found = dict.fromkeys(COUNTED, 0)
    links: dict[str, str] = {}
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
        here = links_of(page)
        links.update(dict.fromkeys(here, name))
        pages = {path_of(link, origin) for link in here} - {None}
        ahead |= {path for path in pages if path} - seen
    for link, name in links.items():
        fault = fault_of_link(link, origin)
        if fault:
            faults.append(f"{name}: {link}: {fault}")
    built = {
        "/" + path.parent.relative_to(SITE).as_posix().strip(".") + "/"
        for path in SITE.rglob("index.html")
    }
    built = {name.replace("//", "/") for name in built}
    faults += [f"{name}: no link leads there" for name in built - seen]
    faults += [f"no {kind} on the site" for kind, n in found.items() if n == 0]
    faults += check_navigation(page, origin, width)
    if width == "desktop":
        faults += check_search(page, origin)
        faults += check_not_found(page, origin)
    context.close()
    print(f"{width}: {len(seen)} pages, {len(links)} links, {found}")
    return faults


def main() -> None:
    """Checks both widths; exits with the faults."""
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if chromium is None:
        raise SystemExit("No Chromium here: apt-get install chromium.")
    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    # A browser for each width, beside each other.
    with concurrent.futures.ProcessPoolExecutor() as pool:
        found = pool.map(check_site, [chromium] * len(WIDTHS), WIDTHS)
        faults = [fault for faults in found for fault in faults]
    for fault in sorted(set(faults)):
        print(fault)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
