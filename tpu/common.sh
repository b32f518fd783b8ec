# shellcheck shell=bash
# shellcheck disable=SC2034  # what is set here, the scripts that source this read
# Arguments and helpers that the scripts of this folder share; sourced, not run.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: bash 4.4 or newer is needed, this is $BASH_VERSION" >&2
  exit 2
fi

NAME='' ZONE='' PROJECT='' DRY_RUN='' VALUE=''
WHERE=()           # zone and project, for every gcloud command about the slice
SSH=()             # further options of ssh and scp
OPTIONS_OF_ALL=()  # the common options as they were given, to hand to another script
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$HERE")
PATIENCE=10        # failures of gcloud in a row, until a script that waits gives up

common_usage() {
  cat <<'TEXT'
  --name, --zone, --project
                     which slice, as gcloud names it
  --internal-ip      ssh to internal addresses: for a slice without external ones
  --dry-run          print the commands instead of running them
  --help             this text
TEXT
}

# fail WORDS: a slip in the arguments.
fail() {
  echo "error: $*; see --help" >&2
  exit 2
}

# die WORDS: something that was tried did not work.
die() {
  echo "error: $*" >&2
  exit 1
}

# take OPTION VALUE...: sets VALUE, or fails if there is none.
take() {
  [[ $# -gt 1 && $2 != --* ]] || fail "$1 needs a value"
  VALUE=$2
}

# take_number OPTION VALUE...: the same for a whole number from 0.
take_number() {
  take "$@"
  [[ $VALUE =~ ^[0-9]+$ ]] || fail "$1 needs a whole number, not $VALUE"
}

# common_option ARGUMENT...: true if the first is an option of every script; sets TAKEN, the number
# of arguments it used.
common_option() {
  TAKEN=2
  case "$1" in
    --name) take "$@"; NAME=$VALUE ;;
    --zone) take "$@"; ZONE=$VALUE ;;
    --project) take "$@"; PROJECT=$VALUE ;;
    --internal-ip) SSH+=(--internal-ip); TAKEN=1 ;;
    --dry-run) DRY_RUN=1 TAKEN=1 ;;
    --help) usage; exit 0 ;;
    *) return 1 ;;
  esac
  OPTIONS_OF_ALL+=("${@:1:TAKEN}")
}

need_slice() {
  [[ -n $NAME ]] || fail "--name is missing"
  [[ $NAME =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || fail "--name $NAME: lower-case letters, digits and -"
  [[ -n $ZONE ]] || fail "--zone is missing"
  WHERE=(--zone="$ZONE")
  [[ -z $PROJECT ]] || WHERE+=(--project="$PROJECT")
}

# run COMMAND...: runs it, or prints it so that a shell can read it back.
run() {
  if [[ -n $DRY_RUN ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# on_workers WORKER COMMAND: a shell command on one worker, or on "all". It fails if it fails on
# one. If a connection is cut, gcloud runs it again: it must bear that.
on_workers() {
  run gcloud compute tpus tpu-vm ssh "$NAME" "${WHERE[@]}" "${SSH[@]}" --worker="$1" --command="$2"
}

# on_hosts WORKER WORD...: a command of host.sh there.
on_hosts() {
  local worker=$1
  shift
  on_workers "$worker" "$(printf '%q ' bash msjoe_jax/tpu/host.sh "$@")"
}

# list_request: gcloud prints the state of the request for the slice, nothing if there is none.
list_request() {
  run gcloud compute tpus queued-resources list "${WHERE[@]}" \
    --filter="name~/queuedResources/$NAME\$" --format='value(state.state)'
}

request_state() {
  local state
  state=$(list_request) || return 1
  echo "${state:-NONE}"
}

# why_failed: prints what the service says of a request that failed, on one line.
why_failed() {
  gcloud compute tpus queued-resources describe "$NAME" "${WHERE[@]}" \
    --format='value(state.failedData.error.message)' | tr '\n' ' ' || true
}

# shellcheck disable=SC2016  # what is in single quotes, the host expands
# ask_hosts: every host prints "status HOST RUN STATE CODE"; see host.sh, which setup.sh brings.
ask_hosts() {
  on_workers all 'if [ -e msjoe_jax/tpu/host.sh ]; then
  bash msjoe_jax/tpu/host.sh status
else
  echo "status $(hostname) - none -"
fi'
}

host_states() {
  local lines
  lines=$(ask_hosts) || return 1
  grep '^status ' <<<"$lines"
}
