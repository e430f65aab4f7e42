# shellcheck shell=bash
# What the scripts share: they need a Python, a few programs and a venv, and get
# them themselves on Debian and Ubuntu. Everything but the apt packages goes into the cache.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${OFFSITE_LAB_CACHE:-$HOME/.cache/offsite-lab}

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }
fail() {
    printf 'ERROR: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf 'HINT: %s\n' "$2" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "this needs root: $*" "become root, or install sudo"
    fi
}

# missing_packages PROGRAM=PACKAGE...: print the packages of the programs that are not here.
missing_packages() {
    local pair
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || printf ' %s' "${pair#*=}"
    done
}

# need_programs PROGRAM=PACKAGE...: install the packages of the programs that are missing.
need_programs() {
    local missing
    read -ra missing <<<"$(missing_packages "$@")"
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        fail "missing here: ${missing[*]}" "install them with this system's package manager"
    say "Installing ${missing[*]} with apt (a minute or two)"
    as_root timeout -k 20 600 apt-get -q -o DPkg::Lock::Timeout=300 update >/dev/null ||
        fail "apt-get update failed, or took more than 600 s" "its own words are above"
    as_root timeout -k 20 900 env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
        -o DPkg::Lock::Timeout=300 install --no-install-recommends "${missing[@]}" >/dev/null ||
        fail "apt-get install failed, or took more than 900 s" "its own words are above"
}

# find_python: print the newest Python from 3.11 on that can make a venv.
find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
            2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

# use_venv LOCKFILE: leave $python, a Python that has exactly what the lock file names.
use_venv() {
    local base stamp
    if ! base=$(find_python); then
        need_programs "python3-with-venv=python3-venv"
        base=$(find_python) || fail "no Python 3.11 or newer" "Debian 12 and Ubuntu 24.04 have one"
    fi
    stamp=$( ("$base" --version; cat "$root/$1") | sha256sum | cut -c 1-12)
    python=$cache/venv-$stamp/bin/python
    mkdir -p "$cache"
    (
        # Two runs at once make it once.
        flock -w 1200 9 || fail "another run has made $cache for 20 minutes" "see: fuser $cache/venv.lock"
        if [ ! -e "$cache/venv-$stamp/ready" ]; then
            say "Making a Python environment in $cache (a minute)"
            "$base" -m venv --clear "$cache/venv-$stamp"
            timeout -k 20 900 "$python" -m pip -qq --disable-pip-version-check install \
                --require-hashes -r "$root/$1" ||
                fail "pip failed, or took more than 900 s" "its own words are above"
            touch "$cache/venv-$stamp/ready"
        fi
    ) 9>"$cache/venv.lock"
    unset PYTHONDONTWRITEBYTECODE # hundreds of commands start: to compile takes half of their time
    export PYTHONPATH=$root/src:$root
    export PATH=$cache/venv-$stamp/bin:$PATH
}

# own_openzfs: whether this machine's own OpenZFS serves; get what is run beside it then.
own_openzfs() {
    python -m lab own || return 1
    need_programs setfattr=attr
}

# crew N: print how many test processes to run: N for each core, for most of the tests wait.
crew() { echo $(($(nproc) * $1 < 8 ? $(nproc) * $1 : 8)); }

# begin_phases: what `phase` and `tests` need; end_phases tells of them all and exits.
begin_phases() {
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    : >"$work/totals"
    phases_status=0 phases=() phase_began=$SECONDS
}

# phase NAME SECONDS COMMAND...: run it within so many seconds; its status is remembered.
phase() {
    local name=$1 limit=$2 ended=0 foreground=()
    shift 2
    [ ! -t 0 ] || foreground=(--foreground) # so that ^C reaches what runs
    say "$name"
    phase_began=$SECONDS
    timeout "${foreground[@]}" --kill-after=20 "$limit" "$@" || ended=$?
    [ "$ended" != 124 ] || printf 'ERROR: %s: not done within %s s\n' "$name" "$limit" >&2
    [ "$ended" = 0 ] || phases_status=1
    phase_ended "$name" "$([ "$ended" = 0 ] || echo " FAILED (status $ended)")"
    return "$ended"
}

# phase_ended NAME [NOTE]: note how long it took.
phase_ended() { phases+=("$(printf '%6d s  %s' $((SECONDS - phase_began)) "$1${2-}")"); }

# tests NAME SECONDS ARGS...: a phase of pytest; what passed is counted (tests/conftest.py). Where
# there is apt every storage server can be had, and one that is missing fails its tests.
tests() {
    local name=$1 limit=$2 servers=''
    shift 2
    ! command -v apt-get >/dev/null || servers=expected
    phase "$name" "$limit" env "OFFSITE_TOTALS=$work/totals" "OFFSITE_TEST_SERVERS=$servers" \
        script/pytest "$@" || :
}

# end_phases: tell what took how long, what failed, and the totals in one line; exit 1 if a phase
# failed.
end_phases() {
    say "What took how long ($SECONDS s)"
    printf '%s\n' "${phases[@]}"
    awk '/^FAILED / { print; next }
        { passed += $1; failed += $2; skipped += $3; rerun += $4 }
        END {
            printf "totals: %d passed, %d failed, %d skipped", passed, failed, skipped
            if (rerun) printf ", %d rerun", rerun
            printf "\n"
        }' "$work/totals"
    exit "$phases_status"
}
