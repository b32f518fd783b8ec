# shellcheck shell=bash
# Arguments and helpers that the scripts of this folder share; sourced, not run.

NAME='' ZONE='' PROJECT='' DRY_RUN='' VALUE=''
WHERE=()

common_usage() {
  cat <<'TEXT'
  --name, --zone, --project
                     which slice, as gcloud names it
  --dry-run          print the commands instead of running them
  --help             this text
TEXT
}

fail() {
  echo "error: $*; see --help" >&2
  exit 2
}

# take OPTION VALUE...: sets VALUE, or fails if there is none.
take() {
  [[ $# -gt 1 && $2 != --* ]] || fail "$1 needs a value"
  VALUE=$2
}

# common_option ARGUMENT...: true if the first is an option of every script; sets TAKEN, the number
# of arguments it used.
# shellcheck disable=SC2034  # TAKEN and WHERE are read by the scripts that source this
common_option() {
  TAKEN=2
  case "$1" in
    --name) take "$@"; NAME=$VALUE ;;
    --zone) take "$@"; ZONE=$VALUE ;;
    --project) take "$@"; PROJECT=$VALUE ;;
    --dry-run) DRY_RUN=1 TAKEN=1 ;;
    --help) usage; exit 0 ;;
    *) return 1 ;;
  esac
}

need_slice() {
  [[ -n $NAME ]] || fail "--name is missing"
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

# on_workers WORKER COMMAND: a shell command on one worker, or on "all".
on_workers() {
  run gcloud compute tpus tpu-vm ssh "$NAME" "${WHERE[@]}" --worker="$1" --command="$2"
}
