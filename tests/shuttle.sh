#!/usr/bin/env bash
# Tries the map of contents in many orders of its threads: `bash tests/shuttle.sh [ORDERS]` of each kind, 100,000 if it is not
# said. Notes the count, if TIDEWATCH_RESULTS names a file.
set -euo pipefail
cd "$(dirname "$0")/.."

orders=${1:-100000}
said=$(TIDEWATCH_SHUTTLE=$orders cargo run --release --quiet --locked --manifest-path tests/shuttle/Cargo.toml --target-dir target/shuttle)
echo "$said"
if [ -n "${TIDEWATCH_RESULTS:-}" ]; then
    TIDEWATCH_NOTE="Orders of threads;the map of contents under shuttle;$(tr '\n' ' ' <<<"$said" | sed 's/ *$//')" \
        TIDEWATCH_COMMAND="bash tests/shuttle.sh $orders" cargo test --locked --quiet --test it -- a_figure_that_a_script_has_found
fi
