#!/usr/bin/env bash
# Runs a training to its end: creates the slice, and again when it is taken away.
set -euo pipefail
. "$(dirname "$0")/common.sh"

usage() {
  cat <<'TEXT'
usage: tpu/run.sh --name NAME --zone ZONE --workdir gs://BUCKET/RUN [OPTION ...]
                  [-- --config.FIELD=VALUE ...]

create.sh, setup.sh, copy.sh and launch.sh in turn; then watches the run, from this
machine, until it ends. When the slice is taken away (Spot), its request fails or its
hosts restart, it does all of that again and the run resumes from the work folder.
If this script is ended, the run goes on; the same command watches it again.

Exit status: 0 the run finished; 2 bad input; 75 stopped by tpu/launch.sh --stop; 1
anything else, said in one line. Whatever the end, the slice stays and costs money,
unless the run finished and --delete-when-done was given.

  of create.sh:      --type, --runtime-version, --spot, --valid-until-duration,
                     --service-account, --data-disk
  of copy.sh:        --mount, --device; --copy gs://BUCKET/PATH=/DIR, may be repeated
  of launch.sh:      --config, --restarts, --env
  --recreations N    how often a slice is created anew or a run started again on a slice
                     whose hosts restarted (default: 20)
  --delete-when-done
                     delete the slice after the run finished
  --fetch DIR        fetch the hosts' logs to DIR (tpu/fetch.sh) when the run has ended
  --poll SECONDS     time between two looks (default: 60)
TEXT
  common_usage
}

CREATE=() COPY=() LAUNCH=()
WORKDIR=''
LIMIT=20
DELETE=''
FETCH=''
POLL=60
SETTLE=5
while (($#)); do
  if common_option "$@"; then shift "$TAKEN"; continue; fi
  case "$1" in
    --type | --runtime-version | --valid-until-duration | --service-account | --data-disk)
      take "$@"; CREATE+=("$1" "$VALUE"); shift 2 ;;
    --spot) CREATE+=(--spot); shift ;;
    --mount | --device) take "$@"; COPY+=("$1" "$VALUE"); shift 2 ;;
    --copy) take "$@"; COPY+=("$VALUE"); shift 2 ;;
    --workdir) take "$@"; WORKDIR=$VALUE; shift 2 ;;
    --config | --restarts | --env) take "$@"; LAUNCH+=("$1" "$VALUE"); shift 2 ;;
    --recreations) take_number "$@"; LIMIT=$VALUE; shift 2 ;;
    --delete-when-done) DELETE=1; shift ;;
    --fetch) take "$@"; FETCH=$VALUE; shift 2 ;;
    --poll) take_number "$@"; POLL=$VALUE; shift 2 ;;
    --) shift; break ;;
    *) fail "unknown argument $1" ;;
  esac
done
need_slice
[[ -n $WORKDIR ]] || fail "--workdir is missing"
[[ $WORKDIR == gs://* ]] || fail "--workdir $WORKDIR: only what is in a bucket (gs://) outlives a slice"
LAUNCH+=(--workdir "$WORKDIR" -- "$@")

say() {
  echo "$(date -u +%H:%M:%S) $NAME: $*"
}

# step SCRIPT ARGUMENT...: another script of this folder, for the same slice.
step() {
  local script=$1
  shift
  [[ -n $DRY_RUN ]] || say "$script"
  bash "$HERE/$script" "${OPTIONS_OF_ALL[@]}" "$@"
}

# begin: everything between an active slice and a run on it.
begin() {
  step setup.sh &&
    { [[ ${#COPY[@]} -eq 0 ]] || step copy.sh "${COPY[@]}"; } &&
    step launch.sh "${LAUNCH[@]}"
}

# finish STATUS WORDS: the end of this script, after which nobody watches.
finish() {
  local status=$1
  shift
  [[ -z $FETCH || $state != ACTIVE ]] || step fetch.sh --to "$FETCH" || say "the logs were not fetched"
  if [[ $status == 0 && -n $DELETE ]]; then
    step delete.sh || die "$*; but the slice was not deleted and costs money"
    say "$*; the slice is deleted"
  elif [[ $status == 0 ]]; then
    say "$*; the slice is still there and costs money (tpu/delete.sh)"
  else
    echo "error: $NAME: $*; a slice that is there costs money (tpu/status.sh, tpu/delete.sh)" >&2
  fi
  exit "$status"
}

# count_attempt WHY: one more creation or start, if the limit allows it.
attempts=0
count_attempt() {
  ((attempts < LIMIT)) || finish 1 "$1, and --recreations $LIMIT are used up"
  attempts=$((attempts + 1))
  say "$1: again ($attempts of $LIMIT)"
}

# judge: reads "status HOST RUN STATE CODE" lines and sets VERDICT:
#   on        it runs, or its last hosts are ending
#   finished  exit 0 everywhere
#   bad       bad input somewhere, which no restart mends
#   stopped   somebody stopped it
#   died      a process died for good: its restarts are used up
#   gone      saved, or lost with its host, and not on: to be started again
judge() {
  local state code on=0 hosts=0 finished=0 bad=0 stopped=0 died=0
  while read -r _ _ _ state code; do
    hosts=$((hosts + 1))
    case "$state $code" in
      "on -") on=$((on + 1)) ;;
      stopped*) stopped=1 ;;
      "exit 0") finished=$((finished + 1)) ;;
      "exit 2") bad=1 ;;
      "exit 75" | lost* | none*) ;;
      *) ((code > 128)) || died=1 ;; # above: told to end, and could not save
    esac
  done
  if ((bad)); then VERDICT=bad
  elif ((stopped && on)); then VERDICT=on
  elif ((stopped)); then VERDICT=stopped
  elif ((hosts == finished)); then VERDICT=finished
  elif ((died)); then VERDICT=died
  elif ((on + finished == hosts)); then VERDICT=on
  else VERDICT=gone
  fi
}

# Wrong arguments are told before anything is paid for.
rehearse() {
  step create.sh --dry-run --no-wait "${CREATE[@]}" &&
    step setup.sh --dry-run &&
    { [[ ${#COPY[@]} -eq 0 ]] || step copy.sh --dry-run "${COPY[@]}"; } &&
    step launch.sh --dry-run "${LAUNCH[@]}"
}
if [[ -n $DRY_RUN ]]; then
  rehearse
  exit
fi
(DRY_RUN=1 && rehearse) >/dev/null || exit 2

launched=''  # whether the run was started on this slice
requested='' # asked: this script has requested a slice; there: it was seen
odd=0        # looks in a row at something that should pass
failures=0   # gcloud's failures in a row
seen=''
while :; do
  if state=$(request_state) && { [[ $state != ACTIVE ]] || states=$(host_states); }; then
    failures=0
  else
    failures=$((failures + 1))
    ((failures < PATIENCE)) || finish 1 "gcloud failed $PATIENCE times in a row; the run may be on"
    sleep "$POLL"
    continue
  fi
  if [[ $state != "$seen" ]]; then
    say "$state"
    seen=$state odd=0
  fi

  case "$state" in
    NONE | FAILED | SUSPENDED)
      launched=''
      if [[ $state != NONE ]]; then
        count_attempt "the request is $state $(why_failed 2>/dev/null)"
        step delete.sh || finish 1 "the old request is in the way"
        requested=''
      fi
      if [[ -z $requested ]]; then
        step create.sh --no-wait "${CREATE[@]}" || finish 1 "no slice was requested"
        requested=asked seen=''
      elif [[ $requested == there ]]; then
        finish 1 "the slice was deleted by somebody else"
      else
        odd=$((odd + 1))
        ((odd < PATIENCE)) || finish 1 "the request has disappeared"
      fi
      ;;
    ACTIVE)
      requested=there
      judge <<<"$states"
      if [[ -z $launched && $VERDICT == on ]]; then
        say "a run is on: watching it"
        launched=1
      elif [[ -z $launched ]] && begin; then
        launched=1 odd=0
        continue
      elif [[ -z $launched ]]; then
        odd=$((odd + 1)) # a slice that is being taken away is ACTIVE for a while
        ((odd < SETTLE)) || finish 1 "the run could not be started: see above"
      else
        case "$VERDICT" in
          on) odd=0 ;;
          finished) finish 0 "the run finished" ;;
          stopped) finish 75 "the run was stopped" ;;
          bad)
            step launch.sh --kill || true
            finish 2 "bad input: see tpu/logs.sh"
            ;;
          *) odd=$((odd + 1)) ;; # the same: its run ends oddly
        esac
        if ((odd >= SETTLE)); then
          step launch.sh --kill || true
          [[ $VERDICT != died ]] || finish 1 "a process died for good: see tpu/logs.sh"
          count_attempt "the run is not on any more, on an active slice"
          launched='' odd=0
          continue
        fi
      fi
      ;;
    *) requested=there ;;
  esac
  sleep "$POLL"
done
