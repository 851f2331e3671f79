"""/docs in a real browser: every route, without a key, and nothing from another host."""

import shutil

import httpx
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def check_documentation(address):
    """Open /docs, and one route of it, and check what is shown and what was asked for."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    asked, faults = [], []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"{address}/docs")
        page.locator("summary", has_text="/v1/recommendations").click()
        shown = page.locator("main").inner_text()
        browser.close()
    schema = httpx.get(f"{address}/openapi.json").json()
    assert set(schema["paths"]) >= {"/v1/recommendations", "/v1/items", "/v1/catalogue"}
    assert all(path in shown for path in schema["paths"]) and "a body too large" in shown
    assert all(url.startswith(f"{address}/") for url in asked) and len(asked) >= 3, asked
    assert not [fault for fault in faults if "favicon" not in fault], faults


def test_the_documentation_shows_all_routes_and_asks_no_other_host(address):
    check_documentation(address)


def test_the_documentation_runs_scripts_of_this_server_alone(address):
    page = httpx.get(f"{address}/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe-inline'" not in policy[:60]
    assert "http://" not in page.text and "https://" not in page.text and "innerHTML" not in page.text
    assert "innerHTML" not in httpx.get(f"{address}/docs/docs.js").text
    assert httpx.get(f"{address}/redoc").status_code == 401  # FastAPI's own page, with scripts of another host
