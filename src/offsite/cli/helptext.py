"""What --help says. Short enough to be read, on a terminal of 80 columns."""

from __future__ import annotations

MAIN = """\
offsite: secure ZFS cloud backup. One command to any cloud, one command back.

  offsite --backup  DATASET[@SNAP] [--as @SNAP] [--provider NAME[,NAME...]|all]
  offsite --restore DATASET[@SNAP|@latest|@latest-full] [--as TARGET]
                    [--provider NAME|auto]
  offsite --list    [DATASET] [--provider NAME|all] [--host NAME]
  offsite keys      init|vouch|show|check
  offsite completions bash|zsh|fish

  Also: offsite backup ..., -b, -r, -l. A bare dataset is backed up, a bare
  DATASET@SNAP restored. offsite help VERB tells more: all options, examples.

Examples:
  offsite --backup tank/photos                  a new snapshot, to all providers
  offsite --backup tank/photos --as @today --provider bb
  offsite --list tank/photos
  offsite --restore tank/photos --as tank/photos-restored

Options of every verb:
  -q, --quiet     only what is wrong; no log file
  -v, --verbose   every command that is run
  --json          the result as JSON on stdout
  -h, --help      this text
  --version       the version

Settings: ~/.config/offsite/config.env over /etc/offsite/config.env; the
environment wins (OFFSITE_CONFIG names another file). Keys: ~/.config/age and
~/.config/offsite. In the background, and without a terminal, progress goes to
~/offsite-backup-DATASET-DATE-TIME.log (or offsite-restore-...).

Exit status:
  0 done    1 failed    2 wrong usage or configuration    3 done in part: some
  providers or datasets failed    4 another offsite is at it    70 a bug in
  offsite    130 interrupted"""

BACKUP = """\
offsite --backup DATASET[@SNAP] [--as @SNAP] [--provider NAME[,NAME...]|all]
                 [-R|--no-recursive] [--exclude PATTERN] [-j|--jobs N]
                 [--full|--base @SNAP|--intermediate] [--restart] [--dry-run]

Backs up one snapshot of a filesystem or volume: compressed, encrypted to your
age recipients, signed, and stored on every chosen provider at once. An existing
snapshot is used, a missing one is made: @today is PREFIX-YYYYMMDD, none is
PREFIX-YYYYMMDD-HHMMSS (ZFS_SNAP_PREFIX). After the first backup only what
changed is sent, from the newest snapshot or bookmark that a provider has.

  --as @SNAP         the name of the new snapshot, where DATASET names none
  --provider NAMES   where to: names from config.env, comma-separated
                     (default: all)
  --full             a full backup, whatever there is (also by policy:
                     FULL_EVERY, MAX_CHAIN)
  --base @SNAP       only what changed since this snapshot (or '#BOOKMARK')
  --intermediate     every snapshot since the last backup becomes one of its own
  -R, --recursive    the dataset and all below it, at one moment, each its own
                     backup; the default for a pool (--no-recursive: just its
                     root). The property offsite:backup=off leaves a dataset
                     out, with all that inherits it
  --exclude PATTERN  leave out what matches, by its full name or its path below
                     DATASET: '*/cache'
  -j, --jobs N       so many datasets at a time (default 2), within the one
                     memory limit
  --restart          give up what an interrupted run stored, and begin anew
  -n, --dry-run      tell what would happen, how much, where to; change nothing
  -q, -v, --json     see offsite --help

Examples:
  offsite --backup tank/photos
  offsite --backup tank/photos@before-upgrade --provider bb,scaleway
  offsite --backup tank --exclude tank/scratch  a whole pool
  nohup offsite --backup tank/photos &          progress goes to a log file

Exit status 3: complete on some providers, or of some datasets, failed on
others. ^C stops cleanly. After any interruption the same command goes on from
where it was."""

RESTORE = """\
offsite --restore DATASET[@SNAP|@latest|@latest-full] [--at TIME] [--as TARGET]
                  [--update|--replace [--yes]|--to-file PATH|-] [--restart]
                  [-R|--no-recursive] [--properties none|local|all] [--dry-run]
                  [--provider NAME|auto] [--host NAME] [--trust-signer FP]
                  [--unsigned]

Restores a backup, and what it stands on, into a dataset that does not exist
yet, and leaves it unmounted. Every backup of the chain is looked at before the
first byte moves; signatures and hashes are verified before anything reaches
ZFS. Needs the age identity. After an interruption the same command goes on from
where it was. Exit status 3: some datasets are restored, others failed.

  --as TARGET        the new dataset's name (default: the original one)
  --at TIME          the newest backup (or set) of a snapshot not younger:
                     2026-01-17 (its end), "2026-01-17 12:00" (here),
                     2026-01-17T12:00+01:00
  --update           TARGET exists, unchanged since a snapshot that is backed
                     up: receive the rest
  --replace          TARGET exists: restore beside it, then let the two change
                     names; the old one is kept as TARGET-before-restore-DATE.
                     --yes: unasked, as it must be in scripts
  -R, --recursive    the dataset and all that was below it, from one moment: the
                     set of that name, else the newest whole one. The default
                     for a pool (--no-recursive: its root)
  --to-file PATH|-   write the stream instead, no ZFS needed; of a chain
                     PATH.001 (full), PATH.002 …
  --properties SET   none, local (default): those that were set on the dataset,
                     or all: inherited ones, too; where it is mounted and shared
                     only under its old name, or by all
  --provider NAME    where from (default: auto, the best one, the others help)
  --host NAME        whose backup, if several hosts have a dataset of this name
  --trust-signer FP  accept this signer, which nothing here vouches for, this
                     once
  --unsigned         take what the older tool left, if there is no other backup:
                     nobody signed it
  --restart          give up what an interrupted restore received, begin anew
  -n, --dry-run      say what would happen and how long it would take (it reads
                     for two seconds); change nothing
  -q, -v, --json     see offsite --help

Examples:
  offsite --restore tank/photos --as tank/photos-restored
  offsite --restore tank/photos@monday --provider scaleway --as scratch/photos
  offsite --restore tank/photos --replace --yes
  offsite --restore tank            a whole pool, onto a fresh one of its name"""

LIST = """\
offsite --list [DATASET] [--provider NAME[,NAME...]|all] [--host NAME] [--json]

Lists the backups, oldest first: whether they are complete, how big, and on
which providers. Needs the catalog key or the age identity.

  --provider NAMES   only these providers (default: all)
  --host NAME        only backups of this host
  -q, -v, --json     see offsite --help

Exit status 3: some providers could not be read; 1: none could."""

KEYS = """\
offsite keys init|vouch|show|check [--json]

  init    make the keys that are missing; existing ones are kept
  vouch   let the age identity, which must be here, vouch for this host's
          signing key: a restore elsewhere then needs nothing but the identity.
          init does so too, if none is to be asked for a passphrase
  show    the public keys, fingerprints and files
  check   prove that what is sealed here can be opened and verified with the
          keys that are here

  -q, -v, --json     see offsite --help

The age identity (~/.config/age/zfs-backup.txt) alone opens backups. Keep a copy
off this machine: without it, no backup can be restored."""

COMPLETIONS = """\
offsite completions bash|zsh|fish

Prints what lets this shell complete offsite's verbs, options, providers,
datasets and snapshots.

  bash    in ~/.bashrc:  source <(offsite completions bash)
  zsh     in ~/.zshrc:   source <(offsite completions zsh)
  fish    offsite completions fish > ~/.config/fish/completions/offsite.fish"""

VERBS = {
    "backup": BACKUP,
    "restore": RESTORE,
    "list": LIST,
    "keys": KEYS,
    "completions": COMPLETIONS,
}
