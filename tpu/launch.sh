#!/usr/bin/env bash
# Starts or stops a run on every host of a slice.
set -euo pipefail
. "$(dirname "$0")/common.sh"

usage() {
  cat <<'TEXT'
usage: tpu/launch.sh --name NAME --zone ZONE --workdir gs://BUCKET/RUN [OPTION ...]
                     [-- --config.FIELD=VALUE ...]
       tpu/launch.sh --name NAME --zone ZONE --stop | --kill

Starts `python -m msjoe_jax.main` under `msjoe_jax launch` on every host of the slice
and returns; the run outlives the connection. Each start has a log of its own,
~/logs/run-TIME.log on each host, and its exit status beside it (tpu/logs.sh,
tpu/status.sh). The same command again resumes from the newest checkpoint of the
work folder.

  --workdir DIR      where checkpoints and metrics go: gs://BUCKET/FOLDER or a disk
  --config FILE      (default: configs/joint_v4.py)
  --restarts N       how often a died process is started again on its host (default: 3);
                     never after exit 0, 2 (bad input) or 75 (saved, unfinished)
  --env NAME=VALUE   an environment variable of the run; may be repeated
  --stop             send every host SIGTERM: the run saves its state and ends
  --kill             end it at once, for a run that hangs; since the last checkpoint is lost
TEXT
  common_usage
}

CONFIG=configs/joint_v4.py
WORKDIR=''
RESTARTS=3
VARIABLES=()
ACTION=start
while (($#)); do
  if common_option "$@"; then shift "$TAKEN"; continue; fi
  case "$1" in
    --workdir) take "$@"; WORKDIR=$VALUE; shift 2 ;;
    --config) take "$@"; CONFIG=$VALUE; shift 2 ;;
    --restarts) take_number "$@"; RESTARTS=$VALUE; shift 2 ;;
    --env) take "$@"; VARIABLES+=("$VALUE"); shift 2
      [[ $VALUE =~ ^[A-Za-z_][A-Za-z_0-9]*= ]] || fail "--env $VALUE is not NAME=VALUE" ;;
    --stop) ACTION=stop; shift ;;
    --kill) ACTION='kill'; shift ;;
    --) shift; break ;;
    *) fail "unknown argument $1" ;;
  esac
done
need_slice

if [[ $ACTION != start ]]; then
  on_hosts all "$ACTION" || die "not every host was told to $ACTION: see above"
  exit 0
fi
[[ -n $WORKDIR ]] || fail "--workdir is missing"

# One name on all hosts. The first command starts nothing: all hosts start, or none.
RUN=run-$(date -u +%Y%m%dT%H%M%SZ)-$$
on_hosts all idle || die "nothing was started: a host is not set up (tpu/setup.sh) or a run is on"
on_hosts all start "$RUN" "${VARIABLES[@]}" ../venv/bin/python -u -m msjoe_jax launch \
  --restarts="$RESTARTS" -- --config="$CONFIG" --workdir="$WORKDIR" "$@" ||
  die "$RUN was not started on all hosts: see above; tpu/launch.sh --kill ends it on the others"
echo "$RUN"
