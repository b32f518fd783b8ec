#!/usr/bin/env bash
# Fetches the logs of a slice's hosts, and a run's results.
set -euo pipefail
. "$(dirname "$0")/common.sh"

usage() {
  cat <<'TEXT'
usage: tpu/fetch.sh --name NAME --zone ZONE [--to DIR] [--project PROJECT] [--dry-run]
       tpu/fetch.sh --workdir gs://BUCKET/RUN [--to DIR] [--exclude REGEX] [--dry-run]

With --name, copies the logs and exit statuses of all starts to DIR/host-N/logs; with
--workdir, what the run wrote to DIR/run. Both may be given.

  --to DIR           where to, on this machine (default: runs/NAME, runs/tpu without one)
  --exclude REGEX    paths below the work folder that stay there
                     (default: .*checkpoints/.*, which are large)
TEXT
  common_usage
}

TO=''
WORKDIR=''
EXCLUDE='.*checkpoints/.*'
while (($#)); do
  if common_option "$@"; then shift "$TAKEN"; continue; fi
  case "$1" in
    --to) take "$@"; TO=$VALUE; shift 2 ;;
    --workdir) take "$@"; WORKDIR=${VALUE%/}; shift 2 ;;
    --exclude) take "$@"; EXCLUDE=$VALUE; shift 2 ;;
    *) fail "unknown argument $1" ;;
  esac
done
[[ -z $WORKDIR || $WORKDIR == gs://* ]] || fail "--workdir $WORKDIR is not gs://BUCKET/RUN"
[[ -n $WORKDIR && -z $NAME ]] || need_slice
TO=${TO:-runs/${NAME:-tpu}}

if [[ -n $WORKDIR ]]; then
  run mkdir -p "$TO/run"
  run gcloud storage rsync --recursive --exclude="$EXCLUDE" "$WORKDIR" "$TO/run" ||
    die "$WORKDIR was not fetched: gcloud says why above"
fi
[[ -n $NAME ]] || exit 0

# scp copies from one host at a time.
COUNT=(gcloud compute tpus tpu-vm describe "$NAME" "${WHERE[@]}" --format='value(networkEndpoints.len())')
if [[ -n $DRY_RUN ]]; then
  run "${COUNT[@]}"
  HOSTS=1
else
  HOSTS=$("${COUNT[@]}") || die "$NAME could not be described: gcloud says why above"
  [[ $HOSTS =~ ^[1-9][0-9]*$ ]] || die "$NAME has no hosts"
fi
missing=''
for ((host = 0; host < HOSTS; host++)); do
  run mkdir -p "$TO/host-$host"
  run gcloud compute tpus tpu-vm scp "$NAME:logs" "$TO/host-$host" "${WHERE[@]}" "${SSH[@]}" \
    --worker="$host" --recurse || missing="$missing $host"
done
[[ -z $missing ]] || die "not fetched from host$missing: see above"
