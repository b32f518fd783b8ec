#!/usr/bin/env bash
# The programs of fake_cloud.py: gcloud, git, docker, xpk and sleep, as files under $FAKE.
# Each call is recorded in `calls`, quoted for bash. The first argument is the program's name.
set -euo pipefail

hosts=$(<"$FAKE/hosts")
state=$(<"$FAKE/state")

# wait_until_it_ended HOST: until no run is on there, if one was.
wait_until_it_ended() {
  [[ ! -e $FAKE/host-$1/logs/lock ]] || flock "$FAKE/host-$1/logs/lock" true
}

# kill_host HOST: ends its processes as a power cut does: nobody writes an exit status.
kill_host() {
  local file pid parent
  for file in "$FAKE/host-$1"/logs/*.pid; do
    [[ -e $file ]] || continue
    pid=$(<"$file")
    [[ -e /proc/$pid/stat ]] || continue
    read -r _ _ _ parent _ <"/proc/$pid/stat" || continue
    [[ ! /proc/$parent/cwd -ef $FAKE/host-$1 ]] || kill -KILL "$parent" "$pid"
  done
  wait_until_it_ended "$1"
}

# happen EVENT: "state WORD", "end CODE [HOST]", "down HOST", "stop", or "" for nothing.
happen() {
  local word first second host
  read -r word first second <<<"$1" || true
  case "$word" in
    state) echo "$first" >"$FAKE/state" ;;
    end)
      for ((host = 0; host < hosts; host++)); do
        [[ -n $second && $second != "$host" ]] || {
          echo "$first" >"$FAKE/host-$host/end.new"
          mv "$FAKE/host-$host/end.new" "$FAKE/host-$host/end"
          wait_until_it_ended "$host"
        }
      done
      ;;
    down) kill_host "$first" ;;
    stop) bash "$TPU/launch.sh" --name pod --zone us-x1-b --stop ;;
  esac
}

# fail_if_told WORDS: the lines of `fails` are "TIMES STATUS WORDS".
fail_if_told() {
  local times status words lines=() told=''
  [[ -s $FAKE/fails ]] || return 0
  while read -r times status words; do
    if [[ -z $told && $times -gt 0 && $1 == *"$words"* ]]; then
      times=$((times - 1)) told=$status
    fi
    lines+=("$times $status $words")
  done <"$FAKE/fails"
  printf '%s\n' "${lines[@]}" >"$FAKE/fails"
  [[ -z $told ]] || {
    echo "ERROR: told to fail" >&2
    exit "$told"
  }
}

# ssh_to WORKER COMMAND
ssh_to() {
  local host status=0
  for ((host = 0; host < hosts; host++)); do
    [[ $1 == all || $1 == "$host" ]] || continue
    (
      cd "$FAKE/host-$host"
      HOME=$PWD PATH=$FAKE/hostbin exec "$FAKE/hostbin/bash" -c "$2" </dev/null
    ) || { ((status)) || status=$?; }
  done
  return "$status"
}

# scp WORKER SOURCE TARGET
scp() {
  local host
  if [[ $3 == *:* ]]; then
    for ((host = 0; host < hosts; host++)); do cp "$2" "$FAKE/host-$host/${3#*:}"; done
  else
    cp -r "$FAKE/host-$1/${2#*:}" "$3"
  fi
}

# storage VERB SOURCE [TARGET]
storage() {
  local here=$FAKE/buckets/${2#gs://}
  [[ -e $here ]] || return 1
  case "$1" in
    ls) if [[ -d $here ]]; then echo "$2/a"; else echo "$2"; fi ;;
    cp) cp "$here" "$3" ;;
    rsync) cp -r "$here/." "$3" ;;
  esac
}

gcloud() {
  local word words=() command='' worker=0
  for word; do
    case "$word" in
      --command=*) command=${word#--command=} ;;
      --worker=*) worker=${word#--worker=} ;;
      --*) ;;
      *) words+=("$word") ;;
    esac
  done
  case "${words[*]}" in
    storage*) storage "${words[@]:1}" ;;
    *" tpu-vm ssh "*) ssh_to "$worker" "$command" ;;
    *" tpu-vm scp "*) scp "$worker" "${words[@]:4}" ;;
    *" tpu-vm describe "*) echo "$hosts" ;;
    *" queued-resources list") [[ $state == NONE ]] || echo "$state" ;;
    *" queued-resources describe "*) printf 'no capacity\nleft\n' ;;
    *" queued-resources create "*)
      happen "state WAITING_FOR_RESOURCES"
      for ((host = 0; host < hosts; host++)); do mkdir -p "$FAKE/host-$host"; done
      ;;
    *" queued-resources delete "*)
      happen "state NONE"
      for ((host = 0; host < hosts; host++)); do
        kill_host "$host"
        rm -rf "$FAKE/host-$host"
      done
      ;;
    *) return 1 ;;
  esac
}

# The commit holds what lies in tpu/ now.
git() {
  local word
  [[ $* != *rev-parse* ]] || { echo 0123456789ab && return; }
  for word; do
    [[ $word != --output=* ]] || tar -caf "${word#--output=}" -C "$(dirname "$TPU")" tpu
  done
}

sleep() {
  local events
  mapfile -t events <"$FAKE/events"
  ((${#events[@]})) || return 0
  printf '%s\n' "${events[@]:1}" >"$FAKE/events"
  happen "${events[0]}"
}

if [[ $1 == happen ]]; then
  happen "$2"
  exit
fi
{
  printf '%q ' "$@"
  echo
} >>"$FAKE/calls"
fail_if_told "$*"
case "$1" in
  gcloud | git | sleep) "$@" ;;
esac
