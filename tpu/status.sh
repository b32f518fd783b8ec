#!/usr/bin/env bash
# Tells how a slice and its run are.
set -euo pipefail
. "$(dirname "$0")/common.sh"

usage() {
  cat <<'TEXT'
usage: tpu/status.sh --name NAME --zone ZONE [--project PROJECT] [--dry-run]

Prints the state of the request (NONE: there is none), then of the newest start on
each host: "on", "exit 0" (finished), "exit 2" (bad input), "exit 75" (saved,
unfinished), another "exit" (died), "stopped" and its exit status (tpu/launch.sh
--stop), "lost" (the host went down) or "none".

TEXT
  common_usage
}

while (($#)); do
  if common_option "$@"; then shift "$TAKEN"; continue; fi
  fail "unknown argument $1"
done
need_slice

if [[ -n $DRY_RUN ]]; then
  list_request
  ask_hosts
  exit 0
fi
STATE=$(request_state) || die "the request's state could not be read: gcloud says why above"
echo "$NAME: $STATE"
[[ $STATE == ACTIVE ]] || exit 0
STATES=$(host_states) || die "not every host answered: see above"
while read -r _ host start state code; do
  [[ $code == - ]] || state="$state $code"
  echo "$host: $start $state"
done <<<"$STATES"
