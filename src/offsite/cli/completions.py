"""Shell completions, made of the parser's own options: ``offsite completions bash|zsh|fish``.

bash and zsh (through its bashcompinit) share one function. Datasets and snapshots are what ``zfs``
here lists; with ZFS_SSH there is none, and they are typed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from offsite.config import SYSTEM_FILE, USER_FILE

SHELLS = ("bash", "zsh", "fish")

# As providers.provider_name has it: RCLONE_REMOTE is "default", other RCLONE_… are rclone's.
_PROVIDERS = (
    "sed -nE -e 's/^[[:space:]]*(export[[:space:]]+)?//; s/[[:space:]]*=[[:space:]]*/=/'"
    " -e 's/^RCLONE_REMOTE=..*/default/p; /^RCLONE_/d'"
    " -e 's/^([A-Za-z][A-Za-z0-9_]*)_REMOTE=..*/\\1/p'"
)
_FILES = f"{SYSTEM_FILE} ~/{USER_FILE}"
_ZSH = "autoload -U +X compinit && compinit; autoload -U +X bashcompinit && bashcompinit\n"
# No more of bash than what zsh knows, too, where it acts as sh.
_BASH = r"""# offsite's completions; to have them, see: offsite help completions
_offsite() {
    local line=${COMP_LINE:0:$COMP_POINT} current previous= verb= bare= word choices= head=
    current=${line##*[[:space:]]}
    line=${line%"$current"}
    for word in ${line#*[[:space:]]}; do
        previous=$word
        case $word in
            -b | --backup | backup) verb=${verb:-backup} ;;
            -r | --restore | restore) verb=${verb:-restore} ;;
            -l | --list | list) verb=${verb:-list} ;;
            keys | completions) verb=${verb:-$word} ;;
            -*) ;;
            *@*) bare=restore ;;
            *) bare=backup ;;
        esac
    done
    verb=${verb:-$bare}
    COMPREPLY=()
    case $previous in
        --provider)
            if [ -n "${OFFSITE_CONFIG-}" ]; then
                choices=$(@PROVIDERS@ "${OFFSITE_CONFIG/#\~/$HOME}" 2>/dev/null)
            else
                choices=$(@PROVIDERS@ @FILES@ 2>/dev/null)
            fi
            choices=$(printf %s "$choices" | tr '[:upper:]' '[:lower:]')
            case $verb in
                restore) choices="$choices auto" ;;
                *) choices="$choices all" ;;
            esac
            ;;
        --properties) choices='none local all' ;;
        --to-file)
            COMPREPLY=($(compgen -f -- "$current"))
            return
            ;;
        @VALUES@) return ;;
        *)
            case $verb:$current in
@OPTIONS@
                keys:*) choices='init vouch show check' ;;
                completions:*) choices='@SHELLS@' ;;
                *@*) choices=$(zfs list -H -d 1 -t snapshot -o name "${current%%@*}" 2>/dev/null) ;;
                *:*) choices=$(zfs list -H -t filesystem,volume -o name 2>/dev/null) ;;
            esac
            case $verb:$current in
                :-*) ;;
                :*) choices="$choices @VERBS@" ;;
            esac
            ;;
    esac
    # Readline replaces what follows the last of the characters at which it breaks words.
    case $COMP_WORDBREAKS:$current in *@*:*@*) head=${current%@*}@ ;; esac
    for word in $choices; do
        case $word in "$current"*) COMPREPLY+=("${word#"$head"}") ;; esac
    done
}
complete -o nosort -F _offsite offsite
"""
_FISH = r"""# offsite's completions; to have them:
# offsite completions fish > ~/.config/fish/completions/offsite.fish
complete -c offsite -f
function __offsite_verb
    set -l bare none
    for word in (commandline -opc)[2..]
        switch $word
            case -b --backup backup
                echo backup; return
            case -r --restore restore
                echo restore; return
            case -l --list list
                echo list; return
            case keys completions
                echo $word; return
            case '-*'
            case '*@*'
                set bare restore
            case '*'
                set bare backup
        end
    end
    echo $bare
end
function __offsite_providers
    set -l config $OFFSITE_CONFIG
    test -n "$config"; or set config @FILES@
    set config (string replace -r '^~' $HOME $config)
    @PROVIDERS@ $config 2>/dev/null | string lower
    test (__offsite_verb) = restore; and echo auto; or echo all
end
function __offsite_names
    command -q zfs; or return
    switch (commandline -ct)
        case '*@*'
            zfs list -H -d 1 -t snapshot -o name (string split @ (commandline -ct))[1] 2>/dev/null
        case '*'
            zfs list -H -t filesystem,volume -o name 2>/dev/null
    end
end
complete -c offsite -n 'test (__offsite_verb) = none' -a '@VERBS@'
complete -c offsite -n 'not contains -- (__offsite_verb) keys completions' -a '(__offsite_names)'
complete -c offsite -n 'test (__offsite_verb) = keys' -a 'init vouch show check'
complete -c offsite -n 'test (__offsite_verb) = completions' -a '@SHELLS@'
"""
_FISH_VALUES = {
    "--provider": "-x -a '(__offsite_providers)'",
    "--properties": "-x -a 'none local all'",
    "--to-file": "-r -F",
}


def script(shell: str, verbs: Mapping[str, Sequence[str]], takes_value: frozenset[str]) -> str:
    """The completions for a shell. ``verbs``: the options of each verb, "" is none yet."""
    names = [verb for verb in verbs if verb]
    if shell == "fish":
        return _named(_FISH, names) + "".join(_fish(verbs, takes_value))
    options = [
        f"                {verb}:-*) choices='{' '.join(known)}' ;;"
        for verb, known in verbs.items()
    ]
    values = " | ".join(sorted(takes_value))
    text = _BASH.replace("@OPTIONS@", "\n".join(options)).replace("@VALUES@", values)
    return (_ZSH if shell == "zsh" else "") + _named(text, names)


def _named(text: str, verbs: Sequence[str]) -> str:
    words = {
        "@VERBS@": " ".join(verbs),
        "@SHELLS@": " ".join(SHELLS),
        "@PROVIDERS@": _PROVIDERS,
        "@FILES@": _FILES,
    }
    for mark, word in words.items():
        text = text.replace(mark, word)
    return text


def _fish(verbs: Mapping[str, Sequence[str]], takes_value: frozenset[str]) -> list[str]:
    lines = []
    for verb, options in verbs.items():
        wanted = f"test (__offsite_verb) = {verb or 'none'}"
        for option in options:
            kind = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            value = _FISH_VALUES.get(option, "-x") if option in takes_value else ""
            lines.append(f"complete -c offsite -n '{wanted}' {kind} {value}".rstrip() + "\n")
    return lines
