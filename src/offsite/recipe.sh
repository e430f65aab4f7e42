# REMOTE=b2:bucket/path  ID=20260117t120000-…  IDENTITY=identity.txt  SIGNERS=allowed_signers  TARGET=tank/new
set -eu
rclone copy "$REMOTE/offsite/backups/$ID" "./$ID"
cd "./$ID"

# 1. The manifest: decrypt, verify the signature, then believe it.
open_document() {                       # NAME NAMESPACE: leaves NAME.json
    age -d -i "$IDENTITY" "$1.age" > "$1.txt"
    head -n 1 "$1.txt" > "$1.json"
    tail -n +2 "$1.txt" > "$1.sig"
    ssh-keygen -Y verify -f "$SIGNERS" -I offsite -n "$2" -s "$1.sig" < "$1.json" >&2
}
open_document manifest offsite-manifest
grep -q "\"id\":\"$ID\"" manifest.json

# 2. Believe only the indexes that the manifest names, and the chunks that these name, in order.
grep -o '"name":"index-[0-9]*\.age","size":[0-9]*,"sha256":"[0-9a-f]*"' manifest.json |
    sed 's/.*"\(index-[0-9]*\.age\)".*:"\([0-9a-f]*\)"/\2  \1/' > indexes.sha256
sha256sum -c indexes.sha256
while read -r _ index; do
    open_document "${index%.age}" offsite-index
    grep -o '"number":[0-9]*,"offset":[0-9]*,"length":[0-9]*,"size":[0-9]*,"sha256":"[0-9a-f]*"' \
        "${index%.age}.json" |
        sed 's/"number":\([0-9]*\),.*"length":\([0-9]*\),.*:"\([0-9a-f]*\)"/\1 \2 \3/' |
        while read -r number length sha; do
            printf '%s  chunk-%08d.zfs.zst.age %s\n' "$sha" "$number" "$length"
        done
done < indexes.sha256 > chunks
cut -d ' ' -f 1-3 chunks | sha256sum -c

# 3. The stream: of each chunk as many bytes as its receipt says.
while read -r _ chunk length; do
    age -d -i "$IDENTITY" "$chunk" | zstd -dc | head -c "$length"
done < chunks | zfs receive -u "$TARGET"
