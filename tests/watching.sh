#!/usr/bin/env bash
# Runs the 85 rows of how changes get lost, the 67 of the fault matrix and the 24 measures of security, and tells which ran
# and which could not, and why.
#
#   tests/watching.sh [ARGUMENT OF CARGO TEST...]
#   tests/watching.sh --told    only tells what the last run of the tests left
#
# TIDEWATCH_FULL=1 runs the full counts. A row that could not run is told, not failed: what it needs (root, a mount
# namespace, bindfs) is not everywhere. A row that left no word is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
failed=0
if [ "${1:-}" = --told ]; then
    shift
else
    rm -rf "$target"/tmp/{watching,matrix,security}
    # Its figures are not those of a run by hand.
    env -u TIDEWATCH_RESULTS cargo test --locked "$@" --test it -- watching:: matrix:: security:: crash:: || failed=1
fi

# told TABLE COUNT: what became of each row.
told() {
    local table=$1 count=$2 ran=0 number
    printf '\n%s\n' "$table: the rows that did not run everywhere"
    for number in $(seq -f %02g 1 "$count"); do
        if [ ! -e "$target/tmp/$table/$number" ]; then
            echo "$number. left no word"
            failed=1
        else
            # What ran, but not everywhere, says so too.
            grep -q ': ran' "$target/tmp/$table/$number" && ran=$((ran + 1))
            grep -v ': ran$' "$target/tmp/$table/$number" || true
        fi
    done
    printf '%s\n' "$table: $ran of $count rows ran"
}

told watching 85
told matrix 67
told security 24
if [ -n "${TIDEWATCH_RESULTS:-}" ]; then
    # Notes it.
    TIDEWATCH_TOLD=1 TIDEWATCH_COMMAND='bash tests/watching.sh' cargo test --locked "$@" --test it --quiet -- \
        what_became_of_the_rows_of_the_last_run || failed=1
fi
[ "$failed" -eq 0 ]
