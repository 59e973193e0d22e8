#!/usr/bin/env bash
# Carries goldens, gradient tests, `kshot bench` and the peer script to a machine with a GPU, runs them there, and brings
# JSON back to results/bench/.
#
#     scripts/gpu-run.sh --on 'ssh gpu'            # any command that runs the shell command it is given last
#     scripts/gpu-run.sh --on 'srun bash -c'
#     scripts/gpu-run.sh                           # on this machine
#     scripts/gpu-run.sh --pack DIR                # only pack: carry DIR yourself, run DIR/run there, bring DIR/out back
#     scripts/gpu-run.sh --rehearse                # all steps on this CPU with small shapes: measures nothing of a GPU
#     scripts/gpu-run.sh --capability 80 …         # other than 90 (H100, H200)
#     scripts/gpu-run.sh --seconds 300 …           # as long a step may take at most
#
# Here: Rust, and what scripts/cuda-build.sh needs. There: the NVIDIA driver, the CUDA libraries cublas, curand and cudart
# (of a toolkit, or of Python's torch), and for the peer script python3 with torch, transformers, peft and safetensors;
# without these that step is told as not run. Exit code 1 when a step failed, 2 when there is no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

on=(bash -c) pack='' rehearse='' capability=90 seconds=600
while [ $# -gt 0 ]; do
    case $1 in
    --on) read -ra on <<<"$2"; shift 2 ;;
    --pack) pack=$2; shift 2 ;;
    --rehearse) rehearse=yes; shift ;;
    --capability) capability=$2; shift 2 ;;
    --seconds) seconds=$2; shift 2 ;;
    *) echo "error: $1 is no option; the head of $0 names them" >&2; exit 2 ;;
    esac
done
largest=$((64 << 20)) # bytes that are carried at most

target=${CARGO_TARGET_DIR:-target}
if [ -n "$rehearse" ]; then
    cargo build --release --locked --bin kshot
    tests=$(cargo test --release --locked --test it --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\/it-[^"]*\)".*/\1/p' | tail -n 1)
    kshot=$target/release/kshot
else
    scripts/cuda-build.sh --tests "$capability"
    kshot=$target/cuda/kshot-sm$capability tests=$target/cuda/it-sm$capability
fi

bundle=$(mktemp -d)
trap 'rm -rf "$bundle"' EXIT
strip -o "$bundle/kshot" "$kshot"
strip -o "$bundle/it" "$tests"
cp scripts/gpu/run benches/peer.py "$bundle"
mkdir -p "$bundle/tests/fixtures"
cp -R tests/fixtures/oracle "$bundle/tests/fixtures/"
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
git diff --quiet HEAD 2>/dev/null || commit=$commit-changed
printf 'commit=%s\nrehearse=%s\nseconds=%s\n' "$commit" "$rehearse" "$seconds" >"$bundle/settings"
carried=$(tar -C "$bundle" -cz . | wc -c)
echo "$carried bytes are carried" >&2
if [ "$carried" -gt "$largest" ]; then
    echo "error: that is more than $largest" >&2
    exit 2
fi
if [ -n "$pack" ]; then
    mkdir -p "$pack"
    cp -R "$bundle/." "$pack"
    echo "run $pack/run on the machine with the GPU, then bring $pack/out back as results/bench" >&2
    exit 0
fi

# A folder of its own there; what it prints is seen here.
there="kshot-gpu-$(date +%s)-$$"
tar -C "$bundle" -cz . | "${on[@]}" "mkdir $there && tar -xz -C $there"
code=0
"${on[@]}" "cd $there && ./run" </dev/null || code=$?
mkdir -p results/bench
"${on[@]}" "tar -cz -C $there/out ." </dev/null | tar -xz -C results/bench
"${on[@]}" "rm -rf $there" </dev/null
echo "results/bench: $(ls results/bench | wc -l) files" >&2
exit $code
