#!/usr/bin/env bash
# Copies the project to every host of a slice and installs it there.
set -euo pipefail
. "$(dirname "$0")/common.sh"

usage() {
  cat <<'TEXT'
usage: tpu/setup.sh --name NAME --zone ZONE [--project PROJECT] [--dry-run]

Copies the committed files of this checkout (git archive HEAD) to ~/msjoe_jax on
every host of the slice, makes a Python 3.11 virtual environment there, installs
requirements.txt and checks that JAX sees all chips. Run it again after a commit:
it replaces the code and keeps the environment. Uncommitted changes stay behind.

TEXT
  common_usage
}

while (($#)); do
  if common_option "$@"; then shift "$TAKEN"; continue; fi
  fail "unknown argument $1"
done
need_slice

ROOT=$(cd "$(dirname "$0")/.." && pwd)
ARCHIVE=$(mktemp -d)/msjoe_jax.tar.gz
trap 'rm -rf "$(dirname "$ARCHIVE")"' EXIT

run git -C "$ROOT" archive --format=tar.gz --output="$ARCHIVE" HEAD
run gcloud compute tpus tpu-vm scp "$ARCHIVE" "$NAME:msjoe_jax.tar.gz" "${WHERE[@]}" --worker=all

# Ubuntu 22.04 has Python 3.10; 3.11 comes from deadsnakes. The images start unattended upgrades at
# first boot, which hold dpkg's lock for minutes: apt-get waits for it.
on_workers all 'set -e
command -v python3.11 >/dev/null || {
  sudo add-apt-repository -y ppa:deadsnakes/ppa
  sudo apt-get -o DPkg::Lock::Timeout=600 install -y python3.11 python3.11-venv
}
rm -rf msjoe_jax.new
mkdir msjoe_jax.new
tar -xzf msjoe_jax.tar.gz -C msjoe_jax.new
rm -rf msjoe_jax
mv msjoe_jax.new msjoe_jax
[ -d venv ] || python3.11 -m venv venv
venv/bin/pip install --quiet --upgrade pip
venv/bin/pip install --quiet -r msjoe_jax/requirements.txt
venv/bin/pip install --quiet --no-deps --editable ./msjoe_jax'

# All hosts must run this at once: it waits for the others.
on_workers all 'venv/bin/python -c "
import jax
jax.distributed.initialize()
print(jax.process_index(), jax.local_device_count(), jax.device_count(), jax.devices()[0].device_kind)"'
