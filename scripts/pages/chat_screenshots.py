"""Take the pictures of docs/chatting.md.

python scripts/pages/chat_screenshots.py runs/quickstart           → docs/chat-page.png and docs/chat-phone.png
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from llmrec.chat.client import Client, OwnServer
from llmrec.chat.dialogue import ChatService
from llmrec.chat.page import background

TALK = ("I liked Toy Story and Star Wars", "something like the second one but funny, no horror, from the 90s")
WAITS = "…"  # what stands for a reply that has not come
SIZES = {"chat-page.png": (1100, 800), "chat-phone.png": (390, 800)}


def main() -> None:
    """Serve a run, talk with it in Chromium, and keep what is seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with OwnServer(given.run, "transformers") as server, sync_playwright() as play:
        counter = ChatService(Client(server.url, server.key), "minilm-l6", given.run, server)
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        with background(counter, given.run.name) as address:
            for name, (width, height) in SIZES.items():
                _picture(browser, address, width, height, given.out / name)


def _picture(browser: Any, address: str, width: int, height: int, path: Path) -> None:
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    page.set_default_timeout(240_000)
    page.goto(address)
    page.get_by_text("nothing yet").wait_for()
    for words in TALK:
        box = page.locator("#said textarea")
        box.fill(words)
        box.press("Enter")
        page.get_by_text(words).last.wait_for()
        page.wait_for_function(f"() => !document.querySelector('#talk').innerText.trim().endsWith('{WAITS}')")
        page.wait_for_timeout(5000)
    page.screenshot(path=path)


if __name__ == "__main__":
    main()
