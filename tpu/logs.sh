#!/usr/bin/env bash
# Prints the logs of a run.
set -euo pipefail
. "$(dirname "$0")/common.sh"

usage() {
  cat <<'TEXT'
usage: tpu/logs.sh --name NAME --zone ZONE [--host N] [--lines N] [--follow]
                   [--run run-TIME | --list] [--project PROJECT] [--dry-run]

Prints the end of the newest start's log on every host, each line after its host's
name.

  --host N           of one host, from 0 (default: all)
  --lines N          how many lines of each (default: 100)
  --follow           go on printing until the run ends
  --run run-TIME     of an earlier start
  --list             name the starts instead
TEXT
  common_usage
}

HOST=all
COUNT=100
FOLLOW=''
RUN=latest
ACTION=logs
while (($#)); do
  if common_option "$@"; then shift "$TAKEN"; continue; fi
  case "$1" in
    --host) take "$@"; HOST=$VALUE; shift 2
      [[ $HOST =~ ^(all|[0-9]+)$ ]] || fail "--host $HOST is neither a number from 0 nor all" ;;
    --lines) take_number "$@"; COUNT=$VALUE; shift 2 ;;
    --follow) FOLLOW=follow; shift ;;
    --run) take "$@"; RUN=$VALUE; shift 2 ;;
    --list) ACTION=list; shift ;;
    *) fail "unknown argument $1" ;;
  esac
done
need_slice

if [[ $ACTION == list ]]; then
  on_hosts "$HOST" list || die "not every host answered: see above"
else
  on_hosts "$HOST" logs "$RUN" "$COUNT" $FOLLOW || die "not every host had that log: see above"
fi
