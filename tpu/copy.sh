#!/usr/bin/env bash
# Brings weights and records to the disks of a slice's hosts.
set -euo pipefail
. "$(dirname "$0")/common.sh"

usage() {
  cat <<'TEXT'
usage: tpu/copy.sh --name NAME --zone ZONE [--mount DIR [--device /dev/sdb]]
                   [gs://BUCKET/PATH=/DIR ...] [--project PROJECT] [--dry-run]

On every host: mounts the data disk of create.sh, then copies each folder or object
of a bucket to the absolute path after the last "=". Again: copies what differs.
A boot disk holds about 100 GB.

  --mount DIR        mount the data disk read-only at DIR
  --device DEVICE    which device the disk is (default: /dev/sdb; lsblk on a host tells)
TEXT
  common_usage
}

MOUNT=''
DEVICE=/dev/sdb
COPIES=()
while (($#)); do
  if common_option "$@"; then shift "$TAKEN"; continue; fi
  case "$1" in
    --mount) take "$@"; MOUNT=$VALUE; shift 2 ;;
    --device) take "$@"; DEVICE=$VALUE; shift 2 ;;
    gs://*=/*) COPIES+=("$1"); shift ;;
    *) fail "$1 is neither an option nor gs://BUCKET/PATH=/DIR" ;;
  esac
done
need_slice
[[ -n $MOUNT || ${#COPIES[@]} -gt 0 ]] || fail "nothing to mount or copy"
[[ -z $MOUNT || $MOUNT == /* ]] || fail "--mount $MOUNT is not an absolute path"

if [[ -n $MOUNT ]]; then
  on_hosts all mount "$DEVICE" "$MOUNT" || die "the data disk is not mounted on all hosts: see above"
fi
for copy in "${COPIES[@]}"; do
  on_hosts all copy "${copy%=*}" "${copy##*=}" || die "${copy%=*} was not copied to all hosts: see above"
done
