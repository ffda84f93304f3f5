#!/usr/bin/env bash
# One process on each of several hosts, by ssh: HOSTS="a b c" experiments/launch/hosts.sh \
#   experiments.train small --out /shared/train
# The hosts have this checkout and its .venv at the same place and share the folder of --out. The
# host "localhost" needs no ssh, so HOSTS="localhost localhost" tries it out.

set -euo pipefail

if (($# < 1)) || [[ -z "${HOSTS:-}" ]]; then
    echo "usage: HOSTS=\"host host\" $0 MODULE [ARGUMENT ...]" >&2
    exit 2
fi
read -ra hosts <<<"$HOSTS"
coordinator="${hosts[0]}:${PORT:-8476}"
here=$(pwd)
children=()
trap 'kill "${children[@]}" 2>/dev/null || true' EXIT

for number in "${!hosts[@]}"; do
    host=${hosts[number]}
    command=("${PYTHON:-.venv/bin/python}" -m "$@" --distributed "$coordinator,${#hosts[@]},$number")
    if [[ $host == localhost ]]; then
        "${command[@]}" &
    else
        printf -v line '%q ' "${command[@]}"
        printf -v folder '%q' "$here"
        # -tt: that the command ends when this script does
        ssh -tt "$host" "cd $folder && exec $line" &
    fi
    children+=("$!")
done
# Where one fails, the others would wait for it: end them.
status=0
for _ in "${hosts[@]}"; do
    wait -n || { status=$?; break; }
done
exit "$status"
