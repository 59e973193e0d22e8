#!/usr/bin/env bash
# Builds kshot for NVIDIA GPUs, on a machine with or without a GPU, with or without a CUDA toolkit.
#
#     scripts/cuda-build.sh              # compute capability 90: H100, H200
#     scripts/cuda-build.sh 80 89 90     # one binary each; so does CUDA_COMPUTE_CAP="80 89 90"
#     scripts/cuda-build.sh --tests      # beside each binary the integration tests, it-sm90, for scripts/gpu-run.sh
#
# Leaves target/cuda/kshot-sm90 (stripped) and the same with .gz (15.7 MB before datasets of 11.5 MB were embedded; not built since), or what CARGO_TARGET_DIR names instead of target.
#
# candle builds its kernels for one compute capability at a time, and code for 90 and above runs on no other: hence
# one binary each.
#
# A toolkit is used where there is one: CUDA_HOME, else nvcc in PATH, else /usr/local/cuda. Else parts of CUDA 13.0
# (1.2 GB, scripts/cuda-toolkit.txt) come from the Python package registry into KSHOT_CUDA, by default the folder
# cuda-13.0 of KSHOT_CACHE (~/.cache/kshot). That needs python3 with pip, and a C++ compiler as any build with nvcc.
#
# The binary starts only where the NVIDIA driver (libcuda.so.1; 580 or newer for CUDA 13.0) and the toolkit's cublas,
# curand and cudart libraries are: `LD_LIBRARY_PATH` names the folder of those if the loader does not know it.
set -euo pipefail
cd "$(dirname "$0")/.."

tests=
if [ "${1:-}" = --tests ]; then
    tests=yes
    shift
fi
largest_gz=32000000 # bytes: what is still easily carried to another machine
read -ra capabilities <<<"${*:-${CUDA_COMPUTE_CAP:-90}}"
for capability in "${capabilities[@]}"; do
    if ! [[ $capability =~ ^[0-9]{2,3}[af]?$ ]]; then
        echo "error: $capability is no compute capability; 90 is one" >&2
        exit 2
    fi
done

# The source folder of a crate.
crate() {
    cargo metadata --format-version 1 --locked --features cuda --filter-platform x86_64-unknown-linux-gnu | python3 -c '
import json, os, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == sys.argv[1]:
        print(os.path.dirname(package["manifest_path"]))' "$1"
}

# C code of functions that a Rust file declares, for the linker alone: called, they end the program.
stand_ins() {
    grep -ohE "fn $1[A-Za-z0-9_]*" "$2" | sort -u | sed 's/^fn \(.*\)/void \1(void) { __builtin_trap(); }/'
}

# Links and a stand-in for the driver's library, as an installed toolkit has them but the packages do not.
complete() {
    local home=$1 library
    ln -sfn lib "$home/lib64"
    for library in cublas.so.13 cublasLt.so.13 curand.so.10 nvrtc.so.13 cudart.so.13; do
        ln -sfn "lib$library" "$home/lib/lib${library%%.*}.so"
    done
    mkdir -p "$home/lib/stubs"
    stand_ins 'cu[A-Z]' "$(crate cudarc)/src/driver/sys/mod.rs" >"$home/lib/stubs/cuda.c"
    cc -shared -fPIC -w -Wl,-soname,libcuda.so.1 -o "$home/lib/stubs/libcuda.so" "$home/lib/stubs/cuda.c"
}

fetched() {
    local cache=${KSHOT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kshot}
    local folder=${KSHOT_CUDA:-$cache/cuda-13.0}
    if ! [ -e "$folder/complete" ]; then
        echo "no CUDA toolkit found: fetching the parts that are needed (1.2 GB) into $folder" >&2
        rm -rf "$folder"
        mkdir -p "$folder"
        python3 -m pip install --quiet --root-user-action=ignore --no-deps --only-binary=:all: --require-hashes \
            --target "$folder" --requirement scripts/cuda-toolkit.txt >&2
        complete "$folder/nvidia/cu13"
        touch "$folder/complete"
    fi
    echo "$folder/nvidia/cu13"
}

if [ -z "${CUDA_HOME:-}" ]; then
    if nvcc=$(command -v nvcc); then
        CUDA_HOME=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
    elif [ -x /usr/local/cuda/bin/nvcc ]; then
        CUDA_HOME=/usr/local/cuda
    else
        CUDA_HOME=$(fetched)
    fi
fi
export CUDA_HOME PATH="$CUDA_HOME/bin:$PATH"
echo "CUDA toolkit: $CUDA_HOME, $(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')" >&2

target=${CARGO_TARGET_DIR:-target}
# candle's kernels for quantised weights, which kshot does not have, are a third of the binary: left out.
unused=$(mkdir -p "$target/cuda/unused" && cd "$target/cuda/unused" && pwd)
stand_ins '[a-z_]' "$(crate candle-kernels)/src/ffi.rs" >"$unused/moe.c"
cc -c -w -o "$unused/moe.o" "$unused/moe.c"
ar crs "$unused/libmoe.a" "$unused/moe.o"
for capability in "${capabilities[@]}"; do
    started=$SECONDS
    CUDA_COMPUTE_CAP=$capability cargo rustc --release --locked --features cuda --bin kshot -- -L native="$unused"
    binary=$target/cuda/kshot-sm$capability
    strip -o "$binary" "$target/release/kshot"
    gzip -9 -c "$binary" >"$binary.gz"
    gz=$(stat -c %s "$binary.gz")
    echo "$binary: $(stat -c %s "$binary") bytes, $gz with gzip, built in $(((SECONDS - started + 59) / 60)) minutes" >&2
    echo "needs $(readelf -d "$binary" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | tr '\n' ' ')" >&2
    if [ "$gz" -gt "$largest_gz" ]; then
        echo "error: $binary.gz is larger than $largest_gz bytes" >&2
        exit 1
    fi
    if [ -n "$tests" ]; then
        built=$(CUDA_COMPUTE_CAP=$capability cargo rustc --release --locked --features cuda --test it \
            --message-format=json -- -L native="$unused" | sed -n 's/.*"executable":"\([^"]*\/it-[^"]*\)".*/\1/p' | tail -n 1)
        strip -o "$target/cuda/it-sm$capability" "$built"
    fi
done
