#!/usr/bin/env bash
# Runs the 85 rows of how changes get lost, and tells which ran and which could not, and why.
#
#   tests/watching.sh [ARGUMENT OF CARGO TEST...]
#   tests/watching.sh --told    only tells what the last run of the tests left
#
# TIDEWATCH_FULL=1 runs the full counts. A row that could not run is told, not failed: what it needs (root, a mount
# namespace, bindfs) is not everywhere. A row that left no word is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
rows=$target/tmp/watching
failed=0
if [ "${1:-}" != --told ]; then
    rm -rf "$rows"
    cargo test --locked "$@" --test it -- watching:: || failed=1
fi

ran=0
missing=0
printf '\n%s\n' "watching: the rows that did not run everywhere"
for number in $(seq -w 1 85); do
    if [ ! -e "$rows/$number" ]; then
        echo "$number. left no word"
        missing=$((missing + 1))
    else
        # What ran, but not everywhere, says so too.
        grep -q ': ran' "$rows/$number" && ran=$((ran + 1))
        grep -v ': ran$' "$rows/$number" || true
    fi
done
printf '%s\n' "watching: $ran of 85 rows ran"
[ "$failed" -eq 0 ] && [ "$missing" -eq 0 ]
