#!/usr/bin/env bash
# Install offsite for this user. ./setup.sh --help tells what it does.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
yes=false
as_user=false
[[ $EUID -eq 0 ]] || as_user=true
permissions=send,snapshot,hold,release,bookmark,mount,receive,create,userprop,rename

usage() {
    cat <<'TEXT'
./setup.sh [--yes] [--user]

Installs offsite on Debian or Ubuntu; run it again at any time to update or repair. It
  1. installs missing system packages (python3-venv, age, zstd, openssh-client),
  2. installs offsite and its pinned Python packages into a folder of its own:
     ~/.local/share/offsite/venv, with the command ~/.local/bin/offsite
     (as root /opt/offsite/venv and /usr/local/bin/offsite), with completions for bash and fish, and
     beside it rclone, if there is none,
  3. makes the keys that are missing (offsite keys init) and a commented
     ~/.config/offsite/config.env; existing ones are kept,
  4. for a user other than root: shows the zfs allow commands that backups need, and runs them
     if you agree.
What changes the system is shown first, and asked.

  --yes    do not ask (zfs allow is run only if sudo needs no password)
  --user   install under HOME, also as root
  --help   this text
TEXT
}

step() { printf '\n== %s\n' "$*"; }
warn() { printf 'WARNING: %s\n' "$*" >&2; }
die() {
    printf 'ERROR: %s\n' "$1" >&2
    [[ $# -lt 2 ]] || printf 'HINT: %s\n' "$2" >&2
    exit 1
}

# agree QUESTION: true if the user says yes.
agree() {
    local answer
    if $yes; then return 0; fi
    [[ -t 0 ]] || die "nobody is there to answer: $1" "run ./setup.sh --yes"
    read -r -p "$1 [y/N] " answer
    [[ $answer == [yY]* ]]
}

# as_root COMMAND...: run it as root, by sudo if need be.
as_root() {
    if [[ $EUID -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root, and there is no sudo" "as root: $*"
    fi
}

# find_python: print a Python of 3.11 or later, with venv if $1 says so.
find_python() {
    local name check='import sys; sys.exit(sys.version_info < (3, 11))'
    [[ ${1-} != with-venv ]] || check="import ensurepip, venv; $check"
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c "$check" >/dev/null 2>&1; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

missing_packages() {
    local name
    if ! find_python with-venv >/dev/null; then
        if name=$(find_python); then
            # Debian splits venv off: the package has the version in its name.
            "$name" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])'
        else
            echo python3-venv
        fi
    fi
    command -v age >/dev/null || echo age
    command -v zstd >/dev/null || echo zstd
    command -v ssh-keygen >/dev/null || echo openssh-client
}

install_packages() {
    local missing
    mapfile -t missing < <(missing_packages)
    if [[ ${#missing[@]} -eq 0 ]]; then
        echo "all there"
        return
    fi
    command -v apt-get >/dev/null ||
        die "missing: ${missing[*]}" "no apt-get here: install them your way, then run this again"
    echo "apt-get install ${missing[*]}"
    agree "Install these packages?" || die "not installed: ${missing[*]}"
    as_root apt-get -q -o DPkg::Lock::Timeout=300 update ||
        die "apt-get update failed" "its own message is above: put that right, then run this again"
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${missing[@]}" ||
        die "apt-get install failed" "its own message is above: put that right, then run this again"
}

install_offsite() {
    local python
    python=$(find_python with-venv) ||
        die "no Python of version 3.11 or later" "Debian 12, Ubuntu 24.04 and later have one"
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        echo "making $venv"
        "$python" -m venv --clear "$venv"
    fi
    echo "installing into $venv (one or two minutes the first time)"
    local pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
    "${pip[@]}" install --require-hashes -r "$here/requirements.lock"
    "${pip[@]}" install --require-hashes -r "$here/requirements-build.lock"
    "${pip[@]}" install --no-deps --no-build-isolation --force-reinstall "$here"
    link_commands
    complete_words
    "$venv/bin/offsite" --version
}

link_commands() {
    local command=$bin/offsite
    mkdir -p "$bin"
    if [[ -e $command && ! -L $command ]]; then
        mv --backup=numbered "$command" "$command.old"
        echo "kept the $command that was there as $command.old"
    fi
    ln -sfn "$venv/bin/offsite" "$command"
    # For rclone config; the user's own one stays the only one.
    if ! command -v rclone >/dev/null && [[ -L $bin/rclone || ! -e $bin/rclone ]]; then
        ln -sfn "$venv/bin/rclone" "$bin/rclone"
    fi
    case ":$PATH:" in
        *":$bin:"*) ;;
        *) warn "$bin is not in PATH; add to ~/.profile: export PATH=\"$bin:\$PATH\"" ;;
    esac
}

# complete_words: what bash and fish find by themselves; zsh's is named in offsite completions --help.
complete_words() {
    local share=${bin%/bin}/share
    [[ $bin != "$HOME/.local/bin" ]] || share=${XDG_DATA_HOME:-$HOME/.local/share}
    local bash=$share/bash-completion/completions fish=$share/fish/vendor_completions.d
    mkdir -p "$bash" "$fish"
    "$venv/bin/offsite" completions bash >"$bash/offsite"
    "$venv/bin/offsite" completions fish >"$fish/offsite.fish"
}

write_config() {
    local config=${OFFSITE_CONFIG:-$HOME/.config/offsite/config.env}
    if [[ -e $config ]]; then
        echo "kept $config"
        return
    fi
    mkdir -p "$(dirname -- "$config")"
    install -m 600 "$here/config.env.example" "$config"
    echo "made $config"
}

allow_zfs() {
    local pool pools user to_do=()
    user=$(id -un)
    if ! command -v zpool >/dev/null || ! pools=$(zpool list -H -o name 2>/dev/null); then
        echo "no pools here; for datasets of another machine see ZFS_SSH in config.env"
        return
    fi
    while IFS= read -r pool; do
        [[ -z $pool ]] || is_allowed "$user" "$pool" || to_do+=("$pool")
    done <<<"$pools"
    if [[ ${#to_do[@]} -eq 0 ]]; then
        echo "nothing to allow"
        return
    fi
    echo "so that $user may back up and restore:"
    for pool in "${to_do[@]}"; do
        echo "  sudo zfs allow -u $user $permissions $pool"
    done
    may_allow || return 0
    for pool in "${to_do[@]}"; do
        sudo zfs allow -u "$user" "$permissions" "$pool" ||
            warn "zfs allow failed for $pool; run the line above yourself"
    done
}

# may_allow: true if the user agreed, or with --yes if sudo asks nothing.
may_allow() {
    if ! $yes; then
        agree "Run these commands?"
    elif ! sudo -n true 2>/dev/null; then
        warn "not run, as sudo would ask for a password; run these commands yourself"
        return 1
    fi
}

is_allowed() {
    local granted permission
    granted=$(zfs allow "$2" 2>/dev/null | awk -v user="$1" '$1 == "user" && $2 == user { print $3 }')
    for permission in ${permissions//,/ }; do
        [[ ",${granted//$'\n'/,}," == *",$permission,"* ]] || return 1
    done
}

next_steps() {
    local rclone=rclone
    command -v rclone >/dev/null || rclone=$venv/bin/rclone
    step "Ready. What is left to do:"
    cat <<TEXT
  1. make a remote at your cloud provider:   $rclone config
  2. name it in ${OFFSITE_CONFIG:-$HOME/.config/offsite/config.env}:   RCLONE_REMOTE="remote:bucket/path"
  3. copy the age identity to a safe place (offsite keys show tells where it is):
     without it nothing can be restored
  4. back up:                                offsite --backup POOL/DATASET
TEXT
}

main() {
    while [[ $# -gt 0 ]]; do
        case $1 in
            -y | --yes) yes=true ;;
            --user) as_user=true ;;
            -h | --help)
                usage
                return
                ;;
            *)
                usage >&2
                printf '\nERROR: unknown option %s\n' "$1" >&2
                return 2
                ;;
        esac
        shift
    done
    if $as_user; then
        venv=${XDG_DATA_HOME:-$HOME/.local/share}/offsite/venv
        bin=$HOME/.local/bin
    else
        venv=/opt/offsite/venv
        bin=/usr/local/bin
    fi
    step "System packages"
    install_packages
    step "offsite"
    install_offsite
    step "Keys"
    "$venv/bin/offsite" keys init
    step "Settings"
    write_config
    if [[ $EUID -ne 0 ]]; then
        step "ZFS permissions"
        allow_zfs
    fi
    next_steps
}

main "$@"
