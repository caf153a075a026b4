"""Pictures of the web page for docs/: light, dark and of a phone's width.

    python scripts/page_screenshots.py [FOLDER]      default: docs

They show `edgellama serve` with the model that ships, and what it really said. Needs Chromium, the
package playwright; makes the files smaller with pngquant, where it is installed.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from page_reader import CHROMIUM, FLAGS, ask, playwright, serving, set_sampling  # noqa: E402

MAX_BYTES = 150_000
TALK = (
    "Tell me a story about a fox named Pip.",
    "Who is the story about?",
    "Thank you",
)
EARLIER = ("Who are you?", "Tell me a story about a lost kite.")


def talk(page: Any) -> None:
    for message in EARLIER:
        ask(page, message)
        page.locator("#new-chat").evaluate("(button) => button.click()")
        page.locator(".message").first.wait_for(state="detached")
    set_sampling(page, temperature="0")
    for message in TALK:
        ask(page, message)
    page.locator("#tokens", has_text="tokens").wait_for()
    page.wait_for_timeout(500)  # until the meter has counted


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    wide = {"width": 1200, "height": 800}
    phone = {"width": 390, "height": 760}
    pictures = {
        "page-light.png": {"viewport": wide, "color_scheme": "light"},
        "page-dark.png": {"viewport": wide, "color_scheme": "dark"},
        "page-phone.png": {"viewport": phone, "color_scheme": "light", "device_scale_factor": 1.5},
    }
    with serving() as address, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, options in pictures.items():
            page = browser.new_context(**options).new_page()
            page.goto(address)
            talk(page)
            page.screenshot(path=folder / name)
            shrink(folder / name)
        browser.close()


def shrink(path: Path) -> None:
    if pngquant := shutil.which("pngquant"):
        subprocess.run([pngquant, "--force", "--skip-if-larger", "--output", path, path])
    size = path.stat().st_size
    print(f"{path}: {size:,} bytes")
    if size > MAX_BYTES:
        sys.exit(f"{path.name} is larger than {MAX_BYTES:,} bytes")


if __name__ == "__main__":
    main()
