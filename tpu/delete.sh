#!/usr/bin/env bash
# Deletes a slice and its request.
set -euo pipefail
. "$(dirname "$0")/common.sh"

usage() {
  cat <<'TEXT'
usage: tpu/delete.sh --name NAME --zone ZONE [--project PROJECT] [--dry-run]

Deletes the slice NAME, its hosts' disks with logs and copies, and the request.
What is in a bucket or on a data disk stays. It does not ask.

TEXT
  common_usage
}

while (($#)); do
  if common_option "$@"; then shift "$TAKEN"; continue; fi
  fail "unknown argument $1"
done
need_slice

run gcloud compute tpus queued-resources delete "$NAME" "${WHERE[@]}" --force --quiet ||
  die "$NAME was not deleted and may cost money: gcloud says why above"
