#!/usr/bin/env bash
# What happens on a host of the slice. The other scripts call it there through ssh, as
# `bash msjoe_jax/tpu/host.sh COMMAND`; if a connection is cut, gcloud calls it once more.
#
# In ~/logs are, for each start: run-TIME.log, its output; run-TIME.pid, the parent process while it
# is on; run-TIME.exit, its exit status; run-TIME.stopped, if --stop or --kill ended it. `latest` has
# the newest start's name. Whoever runs holds `lock`.
set -euo pipefail
cd

die() {
  echo "$(hostname): $*" >&2
  exit 1
}

run_is_on() {
  [[ -e logs/lock ]] && ! flock --nonblock logs/lock true
}

latest() {
  cat logs/latest 2>/dev/null || true
}

# --- setup ------------------------------------------------------------------------------------------

# The images start unattended upgrades at first boot, which hold these locks for minutes.
# add-apt-repository and apt-get update do not wait for them; apt-get install does if it is told to.
wait_for_packages() {
  local tries
  command -v fuser >/dev/null || die "fuser is missing: cannot tell whether packages are being installed"
  for ((tries = 0; tries < 60; tries++)); do
    sudo fuser --silent /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock || return 0
    ((tries % 4)) || echo "$(hostname): waiting for another installation of packages" >&2
    sleep 15
  done
  die "another installation of packages did not end in 15 minutes"
}

# Ubuntu 22.04 has Python 3.10; 3.11 comes from deadsnakes.
install() {
  if ! command -v python3.11 >/dev/null; then
    wait_for_packages
    sudo add-apt-repository --yes --no-update ppa:deadsnakes/ppa
    wait_for_packages
    sudo apt-get update
    sudo apt-get -o DPkg::Lock::Timeout=900 install --yes python3.11 python3.11-venv
  fi
  [[ -e venv/bin/pip ]] || python3.11 -m venv --clear venv
  venv/bin/pip install --quiet --no-deps --only-binary :all: -r msjoe_jax/tpu/requirements.txt
  venv/bin/pip check
}

# Every host of the slice must run this at the same time.
check() {
  venv/bin/python -c '
import jax

jax.distributed.initialize()
kind = jax.devices()[0].device_kind
print(f"host {jax.process_index()}: {jax.local_device_count()} of {jax.device_count()} devices, {kind}")
assert jax.default_backend() == "tpu", f"the backend is {jax.default_backend()}"'
}

# --- data -------------------------------------------------------------------------------------------

# make_folder DIR: makes it, as the administrator where it must be.
make_folder() {
  [[ -d $1 ]] || mkdir -p "$1" 2>/dev/null || {
    sudo mkdir -p "$1"
    sudo chown "$(id -un)" "$1"
  }
}

mount_disk() {
  local device=$1 folder=$2
  ! mountpoint --quiet "$folder" || return 0
  [[ -e $device ]] || die "there is no $device: is a data disk attached (tpu/create.sh --data-disk)? lsblk
$(lsblk 2>&1)"
  make_folder "$folder"
  sudo mount -o ro,noload "$device" "$folder" || die "$device is not mounted at $folder"
}

# An object is copied to the path itself, a folder's contents into it.
copy() {
  local from=${1%/} to=$2
  command -v gcloud >/dev/null || die "gcloud is missing on this image: use a data disk or gs:// paths"
  make_folder "$(dirname "$to")"
  if [[ $(gcloud storage ls "$from" | head -n 1) == "$from" ]]; then
    gcloud storage cp "$from" "$to"
  else
    make_folder "$to"
    gcloud storage rsync --recursive "$from" "$to"
  fi
}

# --- runs -------------------------------------------------------------------------------------------

idle() {
  [[ -e venv/bin/python ]] || die "the environment is missing: tpu/setup.sh first"
  ! run_is_on || die "$(latest) is on: stop it first (tpu/launch.sh --stop)"
}

# start RUN [NAME=VALUE ...] COMMAND...: in the project's folder. A log that is there is never
# written to by another start.
start() {
  local run=$1
  shift
  mkdir -p logs
  [[ ! -e logs/$run.log ]] || return 0 # gcloud's second call
  idle
  (set -o noclobber && : >"logs/$run.log")
  echo "$run" >logs/latest.new
  mv logs/latest.new logs/latest
  setsid --fork nohup bash msjoe_jax/tpu/host.sh supervise "$run" "$@" >>"logs/$run.log" 2>&1 </dev/null
  until [[ -e logs/$run.pid || -e logs/$run.exit ]]; do sleep 0.1; done
}

# supervise RUN [NAME=VALUE ...] COMMAND...: waits for it and writes down how it ended.
supervise() {
  local run=$1 child code=0
  shift
  exec 9>logs/lock
  flock --nonblock 9 || {
    echo "another start was quicker"
    echo 1 >"logs/$run.exit"
    exit 1
  }
  trap : TERM INT HUP # only for itself: the child has the default, and the wait goes on
  (cd msjoe_jax && exec env "$@") &
  child=$!
  echo "$child" >"logs/$run.pid"
  while :; do
    wait "$child" && code=0 || code=$?
    kill -0 "$child" 2>/dev/null || break
  done
  echo "$code" >"logs/$run.exit.new"
  mv "logs/$run.exit.new" "logs/$run.exit"
}

# Sends the parent SIGTERM, which it hands on.
stop() {
  local run
  run=$(latest)
  if ! run_is_on; then
    echo "$(hostname): not running"
    return
  fi
  : >"logs/$run.stopped"
  kill -TERM "$(cat "logs/$run.pid")" 2>/dev/null || true # it may have ended by itself
}

# Freezes each process before its children are looked for, so that none is started again.
kill_tree() {
  local child
  kill -STOP "$1" 2>/dev/null || return 0
  for child in $(pgrep -P "$1"); do kill_tree "$child"; done
  kill -KILL "$1" 2>/dev/null || true
}

kill_run() {
  local run
  run=$(latest)
  if ! run_is_on; then
    echo "$(hostname): not running"
    return
  fi
  : >"logs/$run.stopped"
  kill_tree "$(cat "logs/$run.pid")"
  flock logs/lock true # until it is gone
}

# status: prints "status HOST RUN STATE CODE" of the newest start; STATE is none, on, exit, stopped
# or lost (it is not on, and nobody wrote down how it ended: the host went down).
status() {
  local run state code=- on=''
  run=$(latest)
  ! run_is_on || on=1 # before the exit status is looked for, which is written before the lock goes
  if [[ -z $run ]]; then
    state=none
  elif [[ -e logs/$run.exit ]]; then
    state='exit'
    code=$(cat "logs/$run.exit")
    [[ ! -e logs/$run.stopped ]] || state=stopped
  elif [[ -n $on ]]; then
    state=on
  else
    state=lost
  fi
  echo "status $(hostname) ${run:--} $state $code"
}

list() {
  local log
  for log in logs/run-*.log; do
    [[ ! -e $log ]] || echo "$(hostname): $(basename "$log" .log)"
  done
}

# logs RUN LINES [follow]: following ends when the run does.
logs() {
  local run=$1 lines=$2 follow=()
  [[ $run != latest ]] || run=$(latest)
  [[ -n $run ]] || die "there was no start"
  [[ -e logs/$run.log ]] || die "there is no $run"
  if [[ $# -gt 2 && -e logs/$run.pid && ! -e logs/$run.exit ]]; then
    follow=(--follow --pid="$(cat "logs/$run.pid")")
  fi
  tail --lines="$lines" "${follow[@]}" "logs/$run.log" | sed --unbuffered "s/^/$(hostname): /"
}

COMMAND=$1
shift
case "$COMMAND" in
  mount) mount_disk "$@" ;;
  kill) kill_run ;;
  install | check | copy | idle | start | supervise | stop | status | list | logs) "$COMMAND" "$@" ;;
  *) die "host.sh has no command $COMMAND" ;;
esac
