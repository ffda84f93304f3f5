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

# JAX takes SIGTERM for a notice: processes save at their next step, and those that are not there
# yet would not end at all.
finish() {
    kill "${children[@]}" 2>/dev/null || true
    for ((second = 0; second < ${GRACE:-60}; second++)); do
        kill -0 "${children[@]}" 2>/dev/null || return 0
        sleep 1
    done
    kill -9 "${children[@]}" 2>/dev/null || true
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

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
