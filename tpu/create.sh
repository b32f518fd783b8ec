#!/usr/bin/env bash
# Requests a TPU slice and waits until it is there.
set -euo pipefail
. "$(dirname "$0")/common.sh"

usage() {
  cat <<'TEXT'
usage: tpu/create.sh --name NAME --zone ZONE [--type TYPE] [OPTION ...] [-- GCLOUD_FLAG ...]

Requests the slice NAME as a queued resource of that name and waits until it is
ACTIVE. A slice called v4-32 has 16 chips on 4 hosts. Exit status: 0 it is there;
1 gcloud refused; 2 wrong arguments; 3 the request was queued and then failed.

  --type TYPE        accelerator type: v4-N, v5litepod-N, v5p-N or v6e-N (default: v4-32)
  --runtime-version VERSION
                     runtime image (default: the one that Google names for the type)
  --spot             cheaper, and may be taken away at any time
  --valid-until-duration TIME
                     give up if it is not there by then, as in 6h (default: wait)
  --service-account EMAIL
                     whose rights the hosts have; it must read and write the bucket
                     (default: the project's Compute Engine account)
  --data-disk DISK   attach a disk to every host, read-only:
                     projects/PROJECT/zones/ZONE/disks/NAME; copy.sh --mount mounts it
  --no-wait          return when the request is queued
  -- GCLOUD_FLAG ... further flags of gcloud compute tpus queued-resources create,
                     such as --network=NET, --reserved or --internal-ips
TEXT
  common_usage
}

TYPE=v4-32
VERSION=''
WAIT=1
OPTIONS=()
while (($#)); do
  if common_option "$@"; then shift "$TAKEN"; continue; fi
  case "$1" in
    --type) take "$@"; TYPE=$VALUE; shift 2 ;;
    --runtime-version) take "$@"; VERSION=$VALUE; shift 2 ;;
    --spot) OPTIONS+=(--spot); shift ;;
    --valid-until-duration | --service-account) take "$@"; OPTIONS+=("$1=$VALUE"); shift 2 ;;
    --data-disk) take "$@"; OPTIONS+=("--data-disk=source=$VALUE,mode=read-only"); shift 2 ;;
    --no-wait) WAIT=''; shift ;;
    --) shift; break ;;
    *) fail "unknown argument $1" ;;
  esac
done
need_slice

case "$TYPE" in
  v4-*[0-9]) IMAGE=tpu-ubuntu2204-base ;;
  v5litepod-*[0-9]) IMAGE=v2-alpha-tpuv5-lite ;;
  v5p-*[0-9]) IMAGE=v2-alpha-tpuv5 ;;
  v6e-*[0-9]) IMAGE=v2-alpha-tpuv6e ;;
  tpu7x*) fail "--type $TYPE: the Cloud TPU API does not serve Ironwood; use tpu/xpk/run.sh" ;;
  *) fail "--type $TYPE is not v4-N, v5litepod-N, v5p-N or v6e-N" ;;
esac

run gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" "${WHERE[@]}" \
  --accelerator-type="$TYPE" --runtime-version="${VERSION:-$IMAGE}" "${OPTIONS[@]}" "$@" ||
  die "$NAME was not requested: gcloud says why above; tpu/delete.sh removes an old request"
[[ -n $WAIT && -z $DRY_RUN ]] || exit 0

seen='' failures=0
while :; do
  if state=$(request_state); then
    failures=0
  else
    failures=$((failures + 1)) state='unknown'
    ((failures < PATIENCE)) || die "gcloud failed $PATIENCE times in a row; $NAME stays requested"
  fi
  [[ $state == "$seen" ]] || echo "$NAME: $state"
  seen=$state
  case "$state" in
    ACTIVE) exit 0 ;;
    FAILED | SUSPENDING | SUSPENDED | DELETING | NONE)
      echo "error: $NAME is $state: $(why_failed 2>/dev/null)tpu/delete.sh removes the request, then" \
        "create it again, or elsewhere" >&2
      exit 3
      ;;
  esac
  sleep 30
done
