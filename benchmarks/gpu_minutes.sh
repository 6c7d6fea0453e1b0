#!/usr/bin/env bash
# What a lent GPU machine is asked, within eight minutes; every part writes its figures when it is done.
#   bash benchmarks/gpu_minutes.sh OUTPUT
# Embeddings alone come first: that is where the job was ten times slower than a script.
set -u
out=${1:?name a folder for the figures}
mkdir -p "$out"
export PYTHONPATH=${PYTHONPATH:-$PWD} PYTHONUNBUFFERED=1
part() {
    local name=$1 seconds=$2
    shift 2
    echo "== $name ($(date +%T))"
    timeout "$seconds" python -m "$@" > "$out/$name.log" 2>&1
    echo "== $name ended with $? ($(date +%T))"
    tail -n 12 "$out/$name.log"
}
part worker_time 60 benchmarks.worker_time --batches 2 --output "$out/worker_time.json"
part peers 150 benchmarks.embedding_peers --architecture ViT-L-14-quickgelu --images 4000 \
    --output "$out/peers.json"
part job 180 benchmarks.gpu_speed --parts embed,pipeline --images 3000 --output "$out/job.json"
part bare 90 benchmarks.gpu_speed --parts clip,blip,owl --seconds 5 --output "$out/bare.json"
