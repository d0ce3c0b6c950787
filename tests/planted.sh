#!/usr/bin/env bash
# Plants the bugs of tests/planted/ into a copy of the sources and looks whether the tests that each names fail:
# `bash tests/planted.sh [NUMBER...]`. All of them are built at once, and switched on one at a time. Without numbers those at
# the simulator's seams are counted too: each has a test of its own, which holds if the bug is caught.
#
# A patch has a line that says what it breaks and one that says which test has to fail: `Test: it FILTER` for one of
# tests/it, `Test: lib FILTER` for a unit test. A patch that does not apply, a copy that does not build, and a named test
# that fails with no bug switched on are failures too. `PLANTED_SEEDS` (96) seeds for the simulator, `PLANTED_PROFILE` (dev).
set -euo pipefail
cd "$(dirname "$0")/.."

seeds=${PLANTED_SEEDS:-96}
profile=${PLANTED_PROFILE:-dev}
# How long one run may take, seconds: a bug that makes a test hang is not caught by it.
longest=600

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    # What was removed and not committed yet is still listed.
    if [ -f "$file" ]; then
        cp --parents --preserve=timestamps "$file" "$copy/"
    fi
done
for patch in tests/planted/*.patch; do
    patch -d "$copy" -p1 --silent --no-backup-if-mismatch <"$patch" || die "$patch does not apply any more"
done

# Another version, or what is built here would be taken for what the sources themselves make.
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
sed -i "0,/^version = \"$version\"\$/s//version = \"$version+planted\"/" "$copy/Cargo.toml"
sed -i "/^name = \"tidewatch\"\$/{n;s/^version = \"$version\"\$/version = \"$version+planted\"/}" "$copy/Cargo.lock"

# The target folder is shared, so that only our own code is built again.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
export RUST_BACKTRACE=0
built=$(cd "$copy" && cargo test --locked --profile "$profile" --lib --test it --no-run 2>&1) || die "$built"
binary() {
    sed -n "s#^ *Executable .*$1.* (\(.*\))\$#\1#p" <<<"$built" | head -n 1
}
lib=$(binary 'src/lib.rs')
it=$(binary 'tests/it/main.rs')
[ -n "$lib" ] && [ -n "$it" ] || die "the tests were not built: $built"

# run NUMBER BINARY FILTER [--exact]: succeeds if the tests do.
run() {
    local binary=$lib
    if [ "$2" = it ]; then
        binary=$it
    fi
    (cd "$copy" && TIDEWATCH_PLANTED=$1 TIDEWATCH_SIM_SEEDS=$seeds timeout "$longest" "$binary" "${@:3}" >"$copy/said" 2>&1)
}

# Without a bug everything that is named passes.
while read -r which filter; do
    run 0 "$which" "$filter" || die "\`$which $filter\` fails with no bug switched on: $(tail -n 30 "$copy/said")"
    grep -q '^running [1-9]' "$copy/said" || die "\`$which $filter\` names no test"
done < <(sed -n 's/^Test: //p' tests/planted/*.patch | sort -u)

caught=0
all=0
missed=()
for patch in tests/planted/*.patch; do
    name=$(basename "$patch" .patch)
    number=$((10#${name%%-*}))
    if [ "$number" -eq 0 ] || { [ $# -gt 0 ] && [[ " $* " != *" $number "* ]]; }; then
        continue
    fi
    all=$((all + 1))
    read -r which filter < <(sed -n 's/^Test: //p' "$patch")
    code=0
    run "$number" "$which" "$filter" || code=$?
    # What libtest ends with when a test has failed.
    if [ "$code" -eq 101 ]; then
        caught=$((caught + 1))
        by=$(sed -n 's/^seed \([0-9]*\) failed.*/ in seed \1/p' "$copy/said" | head -n 1)
        printf 'caught     %s: %s%s\n' "$name" "$filter" "$by"
    else
        missed+=("$name")
        printf 'NOT CAUGHT %s: %s (exit %s)\n' "$name" "$filter" "$code"
    fi
done
if [ $# -eq 0 ]; then
    # What is planted at the seams is switched on by the tests themselves.
    for name in $("$it" --list 'sim::seams::' | sed -n 's/: test$//p'); do
        all=$((all + 1))
        code=0
        run 0 it "$name" --exact || code=$?
        if [ "$code" -eq 0 ] && grep -q '^running 1 ' "$copy/said"; then
            caught=$((caught + 1))
            printf 'caught     at a seam: %s\n' "$name"
        else
            missed+=("$name")
            printf 'NOT CAUGHT at a seam: %s (exit %s)\n' "$name" "$code"
        fi
    done
fi
printf 'caught %s of %s\n' "$caught" "$all"
[ ${#missed[@]} -eq 0 ] || exit 1
if [ $# -eq 0 ]; then
    # Notes it, if $TIDEWATCH_RESULTS names a file.
    TIDEWATCH_PLANTED_COUNT="caught $caught of $all" TIDEWATCH_COMMAND='bash tests/planted.sh' cargo test --locked --profile "$profile" --test it \
        every_bug_that_is_planted_in_a_copy -- --quiet
fi
