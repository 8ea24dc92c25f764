#!/usr/bin/env bash
# Train the three models of the box, from nothing to networks that the packaging scripts take:
#
#     training/all.sh --minutes 480 [--out runs] [--cifar cifar10.npz] [--start OLD/unet] [--device cpu|cuda] \
#         [--scenes 50000]
#
# On a CPU one after the other, each for its share of the minutes; on a GPU side by side, each for all of them, in larger
# batches. A run that was stopped goes on where it was when the same command is given again, and one that is complete
# trains no further. Without --cifar (what `underpaint stats` takes) the network of CIFAR-10 is left out.
set -euo pipefail

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
minutes="" out=runs cifar="" start="" device="" scenes=50000
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || usage
    case $1 in
        --minutes) minutes=$2 ;;
        --out) out=$2 ;;
        --cifar) cifar=$2 ;;
        --start) start=$2 ;;
        --device) device=$2 ;;
        --scenes) scenes=$2 ;;
        *) usage ;;
    esac
    shift 2
done
[ -n "$minutes" ] || usage
[ -z "$cifar" ] || [ -e "$cifar" ] || { echo "There are no data $cifar." >&2; exit 2; }

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}
[ -n "$device" ] || device=$("$python" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')
# on a CPU two workers of one thread each: threads within an operation wait for each other where cores are shared
if [ "$device" = cpu ]; then workers="--threads 1 --workers ${WORKERS:-2}"; else workers=""; fi
echo "training on $device for $minutes minutes, into $out"

# train SHARE SCRIPT NAME [OPTION...]: for SHARE of the minutes on a CPU, with a log beside the checkpoint
train() {
    local share=$1 script=$2 name=$3
    shift 3
    local mine
    mine=$("$python" -c 'import sys; print(float(sys.argv[1]) * float(sys.argv[2]))' "$minutes" "$share")
    mkdir -p "$out/$name"
    echo "$name: $mine minutes"
    "$python" -u "$here/$script" --out "$out/$name" --minutes "$mine" --device "$device" $workers "$@" >> "$out/$name/log" 2>&1 ||
        { echo "$name failed; the end of $out/$name/log:" >&2; tail -n 5 "$out/$name/log" >&2; return 1; }
    echo "$name: done"
}

fashion() { train "$1" denoiser.py fashion ${start:+--start "$start"} "${@:2}"; }
natural() {
    if [ -n "$cifar" ]; then
        train "$1" edm.py cifar10 --data "$cifar" "${@:2}"
    else
        echo "cifar10: left out, no --cifar"
    fi
}
scenes() { # shares of the autoencoder, of the latent network and of the reader
    train "$1" autoencoder.py autoencoder
    train "$2" text_to_image.py emoji --autoencoder "$out/autoencoder/vae" --scenes "$scenes" "${@:4}"
    train "$3" reader.py reader --workers 1 # it normalises over the batch
}

if [ "$device" = cuda ]; then
    fashion 1 --batch 512 --rate 3e-3 & jobs=$!
    natural 1 --batch 512 --rate 3e-3 & jobs="$jobs $!"
    scenes 0.35 0.55 0.1 --batch 256 --rate 2e-3 & jobs="$jobs $!"
    failed=0
    for job in $jobs; do wait "$job" || failed=1; done
    exit $failed
fi
fashion 0.3
natural 0.3
scenes 0.12 0.25 0.03
