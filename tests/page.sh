#!/usr/bin/env bash
# Drives the page of a running agent in a real Chromium: what it shows and hides, what it refuses, how it looks.
#
#   tests/page.sh SCREENSHOTS_DIR
#
# Needs `chromium` and `chromedriver` (Debian: chromium, chromium-driver) and python3, and the program as it is built
# with the feature `demo`, whose S3 endpoint the agent sends to. Writes screenshots at 1280 and 390 pixels, light and
# dark, for somebody to look at, and ends what it started.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 SCREENSHOTS_DIR" >&2
    exit 2
fi
mkdir -p "$1"
shots=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."

cargo build --locked
exec python3 tests/page.py "${CARGO_TARGET_DIR:-target}/debug/tidewatch" "$shots"
