#!/usr/bin/env bash
# Benchmark training on a GPU, from a checkout, offline:
#
#   benchmarks/gpu.sh                      everything, in at most 450 s
#   benchmarks/gpu.sh --budget 120         the most important part
#   PYTHON=python3.12 benchmarks/gpu.sh    another Python
#   WHEELS=folder benchmarks/gpu.sh        install missing packages from wheels, into a separate folder
#   benchmarks/gpu.sh --help               the other options
#
# Requires JAX with CUDA, Flax (which installs PyYAML), optax and NumPy; PyTorch for the comparison.
# Results: gpu-*.json and gpu-*.md in $OUT, by default benchmarks/results.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

missing() { # prints the packages that cannot be found
  "$PYTHON" -c 'import sys
from importlib.util import find_spec
print(*(name for name in sys.argv[1:] if find_spec(name) is None))' "$@"
}

# cnnbench and benchmarks are imported from here; -P excludes other folders from the path.
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
      echo "$name: not among the wheels, or a dependency is missing" >&2
  done
  export PYTHONPATH=$PYTHONPATH:$aside
  gone=$(missing $wanted)
fi
options=()
for name in $gone; do
  case $name in
    pydantic_core)
      echo "pydantic is missing: using benchmarks/bare to read experiment files" >&2
      export PYTHONPATH=$PYTHONPATH:$PWD/benchmarks/bare
      ;;
    torch)
      echo "torch is missing: skipping the comparison with PyTorch" >&2
      options+=(--no-torch)
      ;;
    *)
      echo "$name is missing: install it, or set WHEELS to a folder with its wheel" >&2
      exit 2
      ;;
  esac
done

# The CPU is the reference for the GPU.
case ${JAX_PLATFORMS:-cpu} in
  *cpu*) ;;
  *) export JAX_PLATFORMS=$JAX_PLATFORMS,cpu ;;
esac
# Limit JAX's preallocation to leave GPU memory for PyTorch.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.45}
# Python's deprecation warnings would clutter the output.
export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore} TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
"$PYTHON" -P -m benchmarks.gpu ${OUT:+--output "$OUT"} "${options[@]}" "$@"
