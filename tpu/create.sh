#!/usr/bin/env bash
# Creates a TPU VM slice.
set -euo pipefail
. "$(dirname "$0")/common.sh"

usage() {
  cat <<'TEXT'
usage: tpu/create.sh --name NAME --zone ZONE [--project PROJECT] [--type TYPE]
                     [--version VERSION] [--spot] [--dry-run]

Creates the TPU VM slice NAME. A slice called v4-32 has 16 chips on 4 hosts.

  --type TYPE        accelerator type (default: v4-32)
  --version VERSION  runtime image (default: tpu-ubuntu2204-base, for v2 to v4;
                     v5e wants v2-alpha-tpuv5-lite, v5p v2-alpha-tpuv5,
                     v6e v2-alpha-tpuv6e)
  --spot             cheaper, and may be taken away at any time
TEXT
  common_usage
}

TYPE=v4-32
VERSION=tpu-ubuntu2204-base
SPOT=''
while (($#)); do
  if common_option "$@"; then shift "$TAKEN"; continue; fi
  case "$1" in
    --type) take "$@"; TYPE=$VALUE; shift 2 ;;
    --version) take "$@"; VERSION=$VALUE; shift 2 ;;
    --spot) SPOT=1; shift ;;
    *) fail "unknown argument $1" ;;
  esac
done
need_slice

OPTIONS=(--accelerator-type="$TYPE" --version="$VERSION")
[[ -z $SPOT ]] || OPTIONS+=(--spot)
run gcloud compute tpus tpu-vm create "$NAME" "${WHERE[@]}" "${OPTIONS[@]}"
