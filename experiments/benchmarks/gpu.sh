#!/usr/bin/env bash
# Check and time backend "pallas" on a machine with an NVIDIA GPU:
#
#     experiments/benchmarks/gpu.sh OUT             # everything, in less than 9 minutes
#     experiments/benchmarks/gpu.sh OUT benchmark   # only the steps named
#
# Steps: versions, check (kernels against the reference), tests (the contract's, on the GPU),
# prepare (compiles what peers compile at first use), memcheck, racecheck (of compute-sanitizer),
# benchmark, kernels (time of each). All but the first and the last two run side by side; while
# something is timed, nothing else runs. A step that fails or runs out of time does not keep the
# next from starting, except that nothing is timed where the kernels did not run at all.
#
# Needs a Python (PYTHON, default python3) with jax for CUDA, jaxtyping, numpy, scipy, pytest and
# pytest-xdist; uses compute-sanitizer, torch with gsplat, and splax where they are installed.
# Nothing is downloaded. SECONDS_MAX (default 530) bounds the whole. Writes to OUT: summary.txt,
# log.txt with what every step printed, splat.json and splat.png. Commit the last two to
# experiments/results under the device's name.
set -u
out=$(realpath -m "${1:?usage: gpu.sh OUT [STEP...]}")
shift
wanted=" ${*:-versions check tests prepare memcheck racecheck benchmark kernels} "
python=${PYTHON:-python3}
deadline=$((SECONDS + ${SECONDS_MAX:-530}))
cd "$(dirname "$0")/../.." || exit 1
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false # several processes share the GPU
export PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR="$work/matplotlib"
# Where gsplat has to be compiled, only for this GPU.
cuda_arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1)
[[ -n $cuda_arch ]] && export TORCH_CUDA_ARCH_LIST=$cuda_arch
export MAX_JOBS=${MAX_JOBS:-$(nproc)}
[[ -e $out/summary.txt ]] && echo >>"$out/summary.txt"
failed=0

note() {
  echo "$*" | tee -a "$out/summary.txt"
}

# step NAME SECONDS COMMAND...: run for at most so long, log, and note how it ended.
step() {
  local name=$1 limit=$2 start=$SECONDS code=0
  shift 2
  [[ $wanted == *" $name "* ]] || return 0
  ((limit > deadline - SECONDS)) && limit=$((deadline - SECONDS))
  if ((limit < 5)); then
    note "$name: no time left"
    return 1
  fi
  timeout -k 5 "$limit" "$@" >"$work/$name" 2>&1 || code=$?
  {
    echo "==== $name: $*"
    cat "$work/$name"
  } >>"$out/log.txt"
  note "$name: exit $code after $((SECONDS - start)) s: $(tail -n 1 "$work/$name")"
  return "$code"
}

# together PID...: wait for steps in the background.
together() {
  local each
  for each; do wait "$each" || failed=1; done
}

left() {
  echo $((deadline - SECONDS - $1))
}

step versions 60 bash -c "nvidia-smi; nvcc --version | tail -n 2; '$python' -c \"
import importlib.util, platform
import jax, jaxlib
print('Python', platform.python_version(), 'jax', jax.__version__, 'jaxlib', jaxlib.__version__)
for name in ('torch', 'gsplat', 'warp', 'splax'):
    print(name, 'is there' if importlib.util.find_spec(name) else 'is not there')
device = jax.devices()[0]
print(device.device_kind, getattr(device, 'compute_capability', 'no GPU'))\"" || failed=1

# What backends xla and native have of their own is tested elsewhere.
contract=$(printf 'tests/pallas_splat/test_%s.py ' pallas pallas_lowering contract edges invariants \
  repeatability)
step check 140 "$python" -m experiments.benchmarks.gpu_check &
check=$!
# shellcheck disable=SC2086
step tests 200 "$python" -m pytest -q -n 5 -p no:cacheprovider --durations 5 \
  -k "not xla and not native" $contract &
running=$!
step prepare 220 "$python" -m experiments.benchmarks.splat --out "$work/prepared.json" \
  --backends pallas --peers gsplat-cuda-packed splax --scenes avatar --sizes 2000x128 \
  --max-seconds 0.1 --timeout 200 &
running="$running $!"
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
for tool in memcheck racecheck; do
  [[ $wanted == *" $tool "* ]] || continue
  if [[ -n $sanitizer ]]; then
    # Every buffer gets an allocation of its own, so that the sanitizer knows where it ends, and
    # every kernel its own launch.
    XLA_PYTHON_CLIENT_ALLOCATOR=platform XLA_FLAGS=--xla_gpu_enable_command_buffer= \
      step "$tool" 200 "$sanitizer" --tool "$tool" --error-exitcode 9 \
      "$python" -m experiments.benchmarks.gpu_check --small &
    running="$running $!"
  else
    note "$tool: skipped: compute-sanitizer is not installed"
  fi
done
# shellcheck disable=SC2086
together $running
code=0
wait "$check" || code=$?
((code)) && failed=1
if ((code && code != 3 && code != 124)); then # 3: a result is off, 124: too slow
  note "the kernels did not run; the rest is left out"
  exit 1
fi

step benchmark "$(left 0)" "$python" -m experiments.benchmarks.splat --out "$out/splat.json" \
  --backends pallas --peers gsplat-cuda-packed gsplat-cuda-unpacked splax \
  --max-seconds 0.5 --repeats 30 --timeout 100 --together 4 --budget "$(left 50)" || failed=1

step kernels 60 "$python" -m experiments.benchmarks.gpu_kernels || failed=1
exit "$failed"
