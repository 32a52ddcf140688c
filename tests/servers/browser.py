"""The browser that looks at the pages."""

import shutil

# Debian's; the flags keep it from calling home.
CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"),
    "--disable-component-update",
]
WIDE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
