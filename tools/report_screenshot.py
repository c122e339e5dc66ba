"""Take the screenshot of the HTML report that the documentation shows.

    python -m tools.report_screenshot report.json docs/images/report.png [--dark] [--height 1500]

Needs Chromium (Debian: `apt-get install chromium`) and draws the page without any network.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from compiler.report import Report

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def browser_command(profile: Path, *, width: int, height: int) -> list[str] | None:
    """Chromium without a window and without a network; None if it is not installed.

    Args:
        profile: A folder for its settings, so that the user's own are left alone.
        width: Of the page, pixels.
        height: Of the page, pixels.
    """
    browser = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        return None
    return [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--hide-scrollbars",
        # No host resolves: what the page shows, it holds.
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={profile}",
        f"--window-size={width},{height}",
        "--virtual-time-budget=10000",
    ]


def screenshot(page: Path, image: Path, *, width: int, height: int, dark: bool) -> None:
    """Draw an HTML file into a PNG.

    Raises:
        FileNotFoundError: No Chromium is installed, or it drew nothing.
        subprocess.CalledProcessError: It failed.
        subprocess.TimeoutExpired: It took longer than two minutes.
    """
    with tempfile.TemporaryDirectory() as profile:
        command = browser_command(Path(profile), width=width, height=height)
        if command is None:
            raise FileNotFoundError(f"none of {', '.join(_BROWSERS)} is installed")
        command.append(f"--screenshot={image.resolve()}")
        if dark:
            command.append("--blink-settings=preferredColorScheme=0")
        command.append(page.resolve().as_uri())
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    if not image.is_file():
        raise FileNotFoundError(f"Chromium wrote no {image}")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Take a screenshot of a report.")
    parser.add_argument("report", type=Path, help="a report's JSON file")
    parser.add_argument("image", type=Path, help="the PNG to write")
    parser.add_argument("--width", type=int, default=1320)
    parser.add_argument("--height", type=int, default=1500)
    parser.add_argument("--dark", action="store_true", help="with a dark colour scheme")
    arguments = parser.parse_args()
    report = Report.read(arguments.report)
    with tempfile.TemporaryDirectory() as folder:
        page = report.to_html(Path(folder) / "report.html")
        screenshot(
            page, arguments.image, width=arguments.width, height=arguments.height,
            dark=arguments.dark,
        )  # fmt: skip
    print(f"{arguments.image}: {arguments.image.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
