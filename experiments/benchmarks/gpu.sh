#!/usr/bin/env bash
# Check and time backend "pallas" on a machine with an NVIDIA GPU:
#
#     experiments/benchmarks/gpu.sh OUT
#
# It has not been run on a GPU yet; only its steps that do without one have.
#
# Needs a Python (PYTHON, default python3) with jax for CUDA, jaxtyping, numpy and pytest; uses
# compute-sanitizer, torch with gsplat, and splax where they are installed. Nothing is downloaded
# and nothing is written but under OUT: one log per step and summary.txt. Takes less than 9 minutes;
# a step that runs out of time fails, and the next one starts. Commit OUT/splat.json and its plot
# to experiments/results under the device's name.
set -u
out=$(realpath -m "${1:?usage: gpu.sh OUT}")
python=${PYTHON:-python3}
deadline=$((SECONDS + 530))
mkdir -p "$out"
cd "$(dirname "$0")/../.." || exit 1
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false # several processes share the GPU
export PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR="$out/matplotlib"
: >"$out/summary.txt"
failed=0

# step NAME SECONDS COMMAND...: run for at most so long, log, and note how it ended.
step() {
  local name=$1 limit=$2 start=$SECONDS code=0
  shift 2
  ((limit > deadline - SECONDS)) && limit=$((deadline - SECONDS))
  if ((limit < 5)); then
    echo "$name: no time left" | tee -a "$out/summary.txt"
    failed=1
    return
  fi
  timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
  ((code)) && failed=1
  echo "$name: exit $code after $((SECONDS - start)) s: $(tail -n 1 "$out/$name.log")" |
    tee -a "$out/summary.txt"
}

skip() {
  echo "$1: skipped: $2" | tee -a "$out/summary.txt"
}

has() {
  "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)"
}

# gsplat compiles its kernels when first imported; meanwhile ours are tested.
building=
if has gsplat && has torch; then
  timeout -k 5 300 "$python" -c "import gsplat.cuda._backend" >"$out/gsplat_build.log" 2>&1 &
  building=$!
fi

step versions 30 "$python" -c "
import jax, jaxlib
print('jax', jax.__version__, 'jaxlib', jaxlib.__version__)
for device in jax.devices():
    print(device.device_kind, getattr(device, 'compute_capability', 'no GPU'))"
if command -v nvidia-smi >/dev/null; then step nvidia-smi 20 nvidia-smi; fi
step check 90 "$python" -m experiments.benchmarks.gpu_check
step tests 150 "$python" -m pytest -q -p no:cacheprovider -k pallas tests/pallas_splat

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
for tool in memcheck racecheck; do
  if [[ -n $sanitizer ]]; then
    step "$tool" 60 "$sanitizer" --tool "$tool" --error-exitcode 9 \
      "$python" -m experiments.benchmarks.gpu_check --small
  else
    skip "$tool" "compute-sanitizer is not installed"
  fi
done

step stages 60 "$python" -m experiments.benchmarks.gpu_stages
if [[ -n $building ]]; then wait "$building" || skip gsplat "see gsplat_build.log"; fi
step benchmark 240 "$python" -m experiments.benchmarks.splat --out "$out/splat.json" \
  --backends pallas xla --peers gsplat-cuda-packed gsplat-cuda-unpacked splax \
  --max-seconds 0.5 --timeout 30
exit "$failed"
