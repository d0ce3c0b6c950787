#!/usr/bin/env bash
# The long forms of the crashes, the power cuts and the soak, with the named places built in; writes tests/RESULTS.md.
#
#   tests/crash.sh [kills|points|calls|power|soak...]    all of them without arguments
#
# The counts are those of the release: TIDEWATCH_KILLS, TIDEWATCH_POWER_IMAGES and TIDEWATCH_SOAK_SECONDS say others. It has a
# target folder of its own: a program with the named places is not left where the usual one lies.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v strace >/dev/null || { echo "strace is missing" >&2; exit 1; }
target=${CARGO_TARGET_DIR:-target/failpoints}
TIDEWATCH_COMMIT=$(git rev-parse --short HEAD)
[ -z "$(git status --porcelain -- . ':!tests/RESULTS.md')" ] || TIDEWATCH_COMMIT+=+
export TIDEWATCH_COMMIT TIDEWATCH_RESULTS=${TIDEWATCH_RESULTS:-tests/RESULTS.md}

run() {
    # Its own count only: the row's command names it.
    env "${@:2}" cargo test --locked --features failpoints --target-dir "$target" --test it -- "$1"
}

[ $# -gt 0 ] || set -- points calls kills power soak
for part in "$@"; do
    case $part in
    points) run crash::points ;;
    calls) run crash::calls TIDEWATCH_CALLS=all ;;
    kills) run crash::kills TIDEWATCH_KILLS="${TIDEWATCH_KILLS:-3000}" ;;
    power) run crash::power TIDEWATCH_POWER_IMAGES="${TIDEWATCH_POWER_IMAGES:-5000}" ;;
    soak) run crash::soak TIDEWATCH_SOAK_SECONDS="${TIDEWATCH_SOAK_SECONDS:-1800}" ;;
    *)
        echo "there is no part $part" >&2
        exit 2
        ;;
    esac
done
