#!/usr/bin/env bash
# Holds what the service is allowed (systemd/tidewatch.service) against what the program does.
#
#   bash tests/service.sh PROGRAM
#
# PROGRAM is traced while it runs `demo`: it watches, scans, sends, keeps its state and listens. Each system call has to be
# one that SystemCallFilter= lets through, each socket of a family that RestrictAddressFamilies= names, and no memory is both
# written to and run. Then, where mounts may be made of one's own, a run under the unit's file system and capabilities: all
# is read-only but the state folder, /tmp is empty, the user is nobody in particular, and the files belong to root alone.
# Needs strace, systemd-analyze, and for the second part root with unshare and setpriv; a part that cannot run fails, but in
# a place that forbids mounts, which is said.
set -euo pipefail

program=$(realpath "$1")
here=$(cd "$(dirname "$0")/.." && pwd)
unit=$here/systemd/tidewatch.service
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

for tool in strace systemd-analyze; do
    command -v "$tool" >/dev/null || die "$tool is missing"
done

# -- what it asks of the kernel --

# names SET...: the system calls of systemd's sets, one a line.
names() {
    for set in "$@"; do
        case $set in
        # Sets may hold sets.
        @*) systemd-analyze syscall-filter "$set" | sed -n 's/^ \{4\}\([^# ].*\)$/\1/p' | while read -r name; do names "$name"; done ;;
        *) echo "$set" ;;
        esac
    done
}

allow=$(sed -n 's/^SystemCallFilter=\([^~].*\)$/\1/p' "$unit")
deny=$(sed -n 's/^SystemCallFilter=~\(.*\)$/\1/p' "$unit")
[ -n "$allow" ] && [ -n "$deny" ] || die "no SystemCallFilter= in $unit"
# shellcheck disable=SC2086
names $allow | sort -u >"$tmp/allowed"
# shellcheck disable=SC2086
names $deny | sort -u >"$tmp/denied"
comm -23 "$tmp/allowed" "$tmp/denied" >"$tmp/let-through"
[ "$(wc -l <"$tmp/let-through")" -gt 150 ] || die "the sets of systemd could not be read"

# A file that is there, and one that comes.
mkdir -p "$tmp/demo/folder"
echo before >"$tmp/demo/folder/before.txt"
# The service is not root, who is asked for more: SQLite, for one, gives files that root makes to whom the folder belongs.
as=()
if [ "$(id -u)" -eq 0 ]; then
    command -v setpriv >/dev/null || die "setpriv is missing"
    install -m 755 "$program" "$tmp/demo/tidewatch"
    program=$tmp/demo/tidewatch
    chown -R 65534:65534 "$tmp"
    as=(setpriv --reuid 65534 --regid 65534 --clear-groups)
fi
# Not the call that starts it: systemd makes that one before the filter holds for the program.
(
    sleep 3
    mkdir -p "$tmp/demo/folder/new"
    echo later >"$tmp/demo/folder/new/later.txt"
) &
"${as[@]}" strace -f -qq -o "$tmp/trace" "$program" demo "$tmp/demo" --for 10s >/dev/null 2>"$tmp/said" || die "$(cat "$tmp/said")"
wait
sed -n 's/^[0-9]* *\([a-z_0-9]*\)(.*$/\1/p' "$tmp/trace" | grep -vx execve | sort -u >"$tmp/called"
[ "$(wc -l <"$tmp/called")" -gt 40 ] || die "the trace could not be read"
refused=$(comm -23 "$tmp/called" "$tmp/let-through")
# What is refused with EPERM has to be something that the program can do without, which is looked at here by name.
for call in $refused; do
    die "SystemCallFilter= refuses $call: $(grep -m 1 "$call(" "$tmp/trace")"
done
echo "$(wc -l <"$tmp/called") system calls, all of them let through"

families=$(sed -n 's/^RestrictAddressFamilies=//p' "$unit")
for family in $(grep -oE 'socket(pair)?\(AF_[A-Z0-9]+' "$tmp/trace" | sed 's/.*(//' | sort -u); do
    grep -qw "$family" <<<"$families" || die "RestrictAddressFamilies= refuses $family"
done
if grep -E '(mmap|mprotect)\([^)]*PROT_WRITE\|PROT_EXEC' "$tmp/trace"; then
    die "MemoryDenyWriteExecute= refuses that"
fi
if grep -E '(clone|clone3|unshare|setns)\([^)]*CLONE_NEW' "$tmp/trace"; then
    die "RestrictNamespaces= refuses that"
fi
if grep -E 'sched_setscheduler|S_ISUID|S_ISGID' "$tmp/trace"; then
    die "RestrictRealtime= or RestrictSUIDSGID= refuses that"
fi

# -- how much of the system it could reach --

said=
for file in "$here"/systemd/*.service; do
    copy=$tmp/$(basename "$file")
    # A template is judged as one of its instances.
    copy=${copy/@.service/@root.service}
    sed 's#^ExecStart=tidewatch#ExecStart=/bin/true#' "$file" >"$copy"
    # From 0 (shut) to 10; a unit that says nothing has 9.6. The threshold is ten times that.
    exposure=$(systemd-analyze security --offline=true --threshold=18 --no-pager "$copy" | sed -n 's/.*exposure level for .*: \([0-9.]*\) .*/\1/p')
    [ -n "$exposure" ] || die "$(basename "$file") is not judged, or too exposed"
    said+="${said:+, }$(basename "$file") $exposure"
done
echo "exposure: $said"
if [ -n "${TIDEWATCH_RESULTS:-}" ]; then
    (cd "$here" && TIDEWATCH_NOTE="Security;exposure of the units;$said" TIDEWATCH_COMMAND='bash tests/service.sh PROGRAM' \
        cargo test --locked --quiet --test it -- a_figure_that_a_script_has_found)
fi

# -- what it sees --

if [ "$(id -u)" -ne 0 ] || ! unshare --mount true 2>/dev/null; then
    echo "mounts cannot be made here: the unit's file system and capabilities are not tried"
    exit 0
fi
grep -qx 'CapabilityBoundingSet=CAP_DAC_READ_SEARCH CAP_LEASE' "$unit" || die "the capabilities below are not the unit's"
place=$(mktemp -d -p /var/lib tidewatch-test.XXXXXX)
trap 'rm -rf "$tmp" "$place"' EXIT
chmod 755 "$place"
# Of root alone: read by CAP_DAC_READ_SEARCH.
mkdir -m 700 "$place/tree"
echo secret >"$place/tree/file.txt"
chmod 600 "$place/tree/file.txt"
install -m 755 "$program" "$place/tidewatch"
mkdir -p -m 700 "$place/state"
chown -R 65534:65534 "$place/state"
cat >"$place/config.toml" <<END
[agent]
listen = ""
state_dir = "$place/state"
[s3]
endpoint_url = "http://127.0.0.1:9"
[[folder]]
name = "a"
path = "$place/tree"
to = "s3://tide/p"
settle = "100ms"
END
# A bucket that nobody serves: everything up to the first request has to work, and the file has to be read for `explain`.
cat >"$place/inside" <<'END'
set -eu
mount --make-rprivate /
mount --bind "$1/state" "$1/state"
mount -t tmpfs tmpfs /tmp
mount -o remount,bind,ro / 2>/dev/null || mount -o remount,ro /
if touch "$1/tree/written" 2>/dev/null; then echo "the tree can be written to" >&2; exit 1; fi
exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs \
    --bounding-set -all,+dac_read_search,+lease --inh-caps -all,+dac_read_search,+lease \
    --ambient-caps -all,+dac_read_search,+lease \
    env -i AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b timeout -s TERM 8 "$1/tidewatch" run --config "$1/config.toml" -v
END
code=0
unshare --mount sh "$place/inside" "$place" 2>"$tmp/said" || code=$?
# `timeout` ends it with SIGTERM and says so with 124; the program itself has ended with 0.
[ "$code" -eq 124 ] || die "it ended with $code: $(cat "$tmp/said")"
grep -q 'watching ' "$tmp/said" || die "it watches nothing: $(cat "$tmp/said")"
grep -q 'Permission denied\|Operation not permitted\|Read-only' "$tmp/said" && die "$(cat "$tmp/said")"
[ -s "$place/state/tidewatch.db" ] || die "it kept no state: $(cat "$tmp/said")"
grep -q '"watch":"native"' "$place/state/status.json" || die "it does not watch: $(cat "$place/state/status.json")"
echo "it runs in a file system that is read-only, as nobody, with two capabilities"
