#!/usr/bin/env bash
# Copies the project to every host of a slice and installs it there.
set -euo pipefail
. "$(dirname "$0")/common.sh"

usage() {
  cat <<'TEXT'
usage: tpu/setup.sh --name NAME --zone ZONE [--project PROJECT] [--dry-run]

Copies the committed files of this checkout (git archive HEAD) to ~/msjoe_jax on
every host of the slice, makes a Python 3.11 virtual environment there, installs
the exact versions of tpu/requirements.txt and checks that JAX sees all chips. The
project itself is not installed: it runs from its folder. Run this again after a
commit: it replaces the code and keeps the environment. Uncommitted changes stay
behind. It refuses while a run is on.

TEXT
  common_usage
}

while (($#)); do
  if common_option "$@"; then shift "$TAKEN"; continue; fi
  fail "unknown argument $1"
done
need_slice

FOLDER=$(mktemp -d)
ARCHIVE=$FOLDER/msjoe_jax.tar.gz
trap 'rm -rf "$FOLDER"' EXIT
COPY=(gcloud compute tpus tpu-vm scp "$ARCHIVE" "$NAME:msjoe_jax.tar.gz")

run git -C "$ROOT" archive --format=tar.gz --output="$ARCHIVE" HEAD ||
  die "git archive failed: this must be a git checkout with a commit"
run "${COPY[@]}" "${WHERE[@]}" "${SSH[@]}" --worker=all ||
  die "the code was not copied to all hosts: is your key known (ssh-add ~/.ssh/google_compute_engine)?"

on_workers all 'set -e
if [ -e logs/lock ] && ! flock -n logs/lock true; then
  echo "a run is on: stop it first (tpu/launch.sh --stop)" >&2
  exit 1
fi
rm -rf msjoe_jax.new
mkdir msjoe_jax.new
tar -xzf msjoe_jax.tar.gz -C msjoe_jax.new
rm -rf msjoe_jax
mv msjoe_jax.new msjoe_jax
exec bash msjoe_jax/tpu/host.sh install' || die "the installation failed on a host: see above"

# All hosts must run this at once: each waits for the others.
on_hosts all check || die "JAX does not see the slice's chips: see above"
