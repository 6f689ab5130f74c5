#!/usr/bin/env bash
# Measures training on a GPU, from a checkout, without a network:
#
#   benchmarks/gpu.sh                      all of it, in 450 s at most
#   benchmarks/gpu.sh --budget 120         the most important part
#   PYTHON=python3.12 benchmarks/gpu.sh    another Python
#   WHEELS=folder benchmarks/gpu.sh        what is missing is installed from wheels, aside
#   benchmarks/gpu.sh --help               the other options
#
# Needs JAX with CUDA, Flax (which brings PyYAML), optax and NumPy; PyTorch for the comparison.
# Results: gpu-*.json and gpu-*.md in $OUT, else in benchmarks/results.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

missing() { # those of the packages that cannot be found
  "$PYTHON" -c 'import sys
from importlib.util import find_spec
print(*(name for name in sys.argv[1:] if find_spec(name) is None))' "$@"
}

# cnnbench and benchmarks are found here; -P keeps other folders off the path.
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
wanted="jax jaxlib flax optax numpy yaml pydantic_core torch"  # pydantic 1 has no core
gone=$(missing $wanted)
if [ -n "$gone" ] && [ -n "${WHEELS:-}" ]; then
  aside=$(mktemp -d)
  trap 'rm -rf "$aside"' EXIT
  gone=${gone/yaml/PyYAML}
  for name in ${gone/pydantic_core/pydantic}; do
    echo "installing $name from $WHEELS" >&2
    "$PYTHON" -m pip install --quiet --no-index --find-links "$WHEELS" --target "$aside" "$name" ||
      echo "$name: is not among the wheels, or needs more" >&2
  done
  export PYTHONPATH=$PYTHONPATH:$aside
  gone=$(missing $wanted)
fi
options=()
for name in $gone; do
  case $name in
    pydantic_core)
      echo "pydantic is missing: experiment files are read by benchmarks/bare" >&2
      export PYTHONPATH=$PYTHONPATH:$PWD/benchmarks/bare
      ;;
    torch)
      echo "torch is missing: nothing is compared with PyTorch" >&2
      options+=(--no-torch)
      ;;
    *)
      echo "$name is missing: install it, or set WHEELS to a folder with its wheel" >&2
      exit 2
      ;;
  esac
done

# The CPU is what the GPU is held against.
case ${JAX_PLATFORMS:-cpu} in
  *cpu*) ;;
  *) export JAX_PLATFORMS=$JAX_PLATFORMS,cpu ;;
esac
# Half of the GPU's memory for each framework; neither shall take all of it.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.45}
# Python's own warnings of deprecations would hide what this says.
export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore} TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
"$PYTHON" -P -m benchmarks.gpu ${OUT:+--output "$OUT"} "${options[@]}" "$@"
