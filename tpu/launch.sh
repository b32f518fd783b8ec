#!/usr/bin/env bash
# Starts, follows or stops a run on every host of a slice.
set -euo pipefail
. "$(dirname "$0")/common.sh"

usage() {
  cat <<'TEXT'
usage: tpu/launch.sh --name NAME --zone ZONE --workdir gs://BUCKET/RUN
                     [--config configs/joint_v4.py] [--project PROJECT] [--dry-run]
                     [-- --config.FIELD=VALUE ...]
       tpu/launch.sh --name NAME --zone ZONE --logs | --stop

Starts `python -m msjoe_jax.main` on every host of the slice and returns; the run
outlives the connection. Its output is in ~/run.log of each host. The same command
again resumes from the newest checkpoint of the work folder.

  --workdir DIR      where checkpoints and metrics go: gs://BUCKET/FOLDER or a disk
  --config FILE      (default: configs/joint_v4.py)
  --logs             print the log of host 0 and follow it
  --stop             send every host SIGTERM
TEXT
  common_usage
}

CONFIG=configs/joint_v4.py
WORKDIR=''
ACTION=start
while (($#)); do
  if common_option "$@"; then shift "$TAKEN"; continue; fi
  case "$1" in
    --workdir) take "$@"; WORKDIR=$VALUE; shift 2 ;;
    --config) take "$@"; CONFIG=$VALUE; shift 2 ;;
    --logs) ACTION=logs; shift ;;
    --stop) ACTION=stop; shift ;;
    --) shift; break ;;
    *) fail "unknown argument $1" ;;
  esac
done
need_slice

# shellcheck disable=SC2016  # what is in single quotes, the host expands
case "$ACTION" in
  logs) on_workers 0 'tail -n 200 -F run.log' ;;
  stop) on_workers all 'kill -TERM "$(cat run.pid)" 2>/dev/null || echo "not running"' ;;
  start)
    [[ -n $WORKDIR ]] || fail "--workdir is missing"
    # Each argument quoted for the remote shell.
    COMMAND=$(printf '%q ' ../venv/bin/python -u -m msjoe_jax.main \
      --config="$CONFIG" --workdir="$WORKDIR" "$@")
    on_workers all "set -e
if [ -e run.pid ] && kill -0 \"\$(cat run.pid)\" 2>/dev/null; then
  echo 'a run is on: stop it first' >&2
  exit 1
fi
cd msjoe_jax
nohup $COMMAND >../run.log 2>&1 </dev/null &
echo \$! >../run.pid"
    ;;
esac
