#!/usr/bin/env bash
# Makes a Debian package: `bash packaging/deb.sh [FOLDER]` writes FOLDER/tidewatch_VERSION_ARCH.deb (default: target/debian).
#
# Needs Rust and a C compiler; cargo-deb is installed into target/tools unless it is there. The program, both units, a
# commented config, the manual page and completions of three shells go in; nothing is enabled or started by installing it.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-target/debian}
tools=$PWD/target/tools
# The one that the metadata in Cargo.toml was tried with.
version=3.8.0

if ! "$tools/bin/cargo-deb" --version 2>/dev/null | grep -qF "$version"; then
    # Without its features: a package's size in xz and separate debug symbols are not worth their libraries.
    cargo install cargo-deb --version "=$version" --locked --no-default-features --quiet --root "$tools" \
        --target-dir "$tools/build"
    rm -rf "$tools/build"
fi

cargo build --release --locked
parts=target/package-parts
mkdir -p "$parts" "$out"
program=target/release/tidewatch
"$program" man | gzip -9n >"$parts/tidewatch.1.gz"
for shell in bash zsh fish; do
    "$program" completions "$shell" >"$parts/tidewatch.$shell"
done
"$tools/bin/cargo-deb" --no-build --no-strip --locked --output "$out/"
