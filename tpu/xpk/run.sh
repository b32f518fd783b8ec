#!/usr/bin/env bash
# Builds the image and starts a run with XPK on a cluster of Google Kubernetes Engine.
set -euo pipefail
. "$(dirname "$0")/../common.sh"

usage() {
  cat <<'TEXT'
usage: tpu/xpk/run.sh --name WORKLOAD --zone ZONE --cluster CLUSTER --type TYPE --image IMAGE
                      --workdir gs://BUCKET/RUN [OPTION ...] [-- --config.FIELD=VALUE ...]

Builds IMAGE:COMMIT from the committed files, pushes it and creates the workload of
that name on a cluster that XPK has made. The only way to Ironwood (tpu7x-N, where N
is twice the number of chips). XPK shows, follows and deletes it: xpk workload list,
xpk workload delete.

  --cluster CLUSTER  the cluster
  --type TYPE        as XPK names it: tpu7x-16 (8 chips, 16 devices), v6e-16, v5p-32, ...
  --image IMAGE      REGION-docker.pkg.dev/PROJECT/REPOSITORY/msjoe_jax, without a tag
  --no-build         the image of this commit is there already
  --workdir, --config, --restarts, --env
                     as of tpu/launch.sh
  --recreations N    how often the workload is started anew when its nodes are taken away
                     or it was told to save and end (default: 20)
  --spot             on Spot nodes
  --priority WORD    very-low to very-high (default: medium)
TEXT
  common_usage
}

CLUSTER='' TYPE='' IMAGE='' WORKDIR=''
CONFIG=configs/joint_v4.py
RESTARTS=3
LIMIT=20
BUILD=1
OPTIONS=()
while (($#)); do
  if common_option "$@"; then shift "$TAKEN"; continue; fi
  case "$1" in
    --cluster) take "$@"; CLUSTER=$VALUE; shift 2 ;;
    --type) take "$@"; TYPE=$VALUE; shift 2 ;;
    --image) take "$@"; IMAGE=$VALUE; shift 2 ;;
    --no-build) BUILD=''; shift ;;
    --workdir) take "$@"; WORKDIR=$VALUE; shift 2 ;;
    --config) take "$@"; CONFIG=$VALUE; shift 2 ;;
    --restarts) take_number "$@"; RESTARTS=$VALUE; shift 2 ;;
    --recreations) take_number "$@"; LIMIT=$VALUE; shift 2 ;;
    --env | --priority) take "$@"; OPTIONS+=("$1=$VALUE"); shift 2 ;;
    --spot) OPTIONS+=(--spot); shift ;;
    --) shift; break ;;
    *) fail "unknown argument $1" ;;
  esac
done
need_slice
[[ -n $CLUSTER ]] || fail "--cluster is missing"
[[ -n $TYPE ]] || fail "--type is missing"
[[ -n $IMAGE ]] || fail "--image is missing"
[[ ! ${IMAGE##*/} =~ [:@] ]] || fail "--image $IMAGE has a tag; the commit becomes the tag"
[[ $WORKDIR == gs://* ]] || fail "--workdir is missing or not in a bucket (gs://)"
[[ ${#SSH[@]} -eq 0 ]] || fail "--internal-ip is not for XPK"

COMMIT=$(git -C "$ROOT" rev-parse --short=12 HEAD) || die "this must be a git checkout with a commit"
IMAGE=$IMAGE:$COMMIT

if [[ -n $BUILD ]]; then
  FOLDER=$(mktemp -d)
  trap 'rm -rf "$FOLDER"' EXIT
  run git -C "$ROOT" archive --format=tar --output="$FOLDER/files.tar" HEAD
  run mkdir "$FOLDER/files"
  run tar -xf "$FOLDER/files.tar" -C "$FOLDER/files"
  run docker build --platform=linux/amd64 --tag="$IMAGE" --file="$FOLDER/files/tpu/xpk/Dockerfile" \
    "$FOLDER/files" || die "the image was not built: docker says why above"
  run docker push "$IMAGE" || die "$IMAGE was not pushed: docker says why above"
fi

# exec: XPK sends SIGTERM to the shell's child, which must be the parent process itself.
# XPK starts a workload anew after exit statuses of 127 to 255 (a signal, a lost node) and, as told
# here, after 75 (saved, unfinished); never after 0, 1 or 2.
COMMAND="exec $(printf '%q ' python -m msjoe_jax launch --restarts="$RESTARTS" -- \
  --config="$CONFIG" --workdir="$WORKDIR" "$@")"
run xpk workload create --workload="$NAME" --cluster="$CLUSTER" "${WHERE[@]}" --tpu-type="$TYPE" \
  --docker-image="$IMAGE" --max-restarts="$LIMIT" --restart-on-exit-codes=75 \
  --termination-grace-period-seconds=300 "${OPTIONS[@]}" --command="$COMMAND" ||
  die "the workload was not created: xpk says why above"
