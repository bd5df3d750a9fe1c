#!/bin/bash
# Trains a recipe on a Slurm cluster, and goes on by itself after a time limit, a preemption or a node that failed.
#
#   sbatch --nodes=2 tools/measure/slurm_imagenet.sh RECIPE DATA OUT [more options of deepvit-edu train]
#
# DATA and OUT must be seen by all machines. PYTHON names the interpreter, if it is not `python`.
#SBATCH --job-name=imagenet
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@180
set -eu
[ $# -ge 3 ] || { echo "usage: sbatch slurm_imagenet.sh RECIPE DATA OUT [options]"; exit 2; }
recipe=$1 data=$2 out=$3
shift 3

first_machine=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs that share a machine do not meet

# Processes that are started again must not read the addresses of those that died (torch 2.11 and others keep them).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# One torchrun a machine; it starts a process for each GPU, and starts them again when one dies.
# Since Slurm 22.05 srun does not take over the script's --cpus-per-task by itself.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="$SLURM_NNODES" --nproc-per-node="$SLURM_GPUS_ON_NODE" --max-restarts=3 \
    --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="$first_machine:$port" \
    -m deepvit_edu train --recipe "$recipe" --data "$data" --out "$out" --resume "$@" &
training=$!

# Slurm sends TERM to this script three minutes before the end: the processes write a checkpoint, the job queues again.
ended=no
trap 'ended=yes; scancel --signal=TERM "$SLURM_JOB_ID"' TERM
status=0
wait "$training" || status=$?
while kill -0 "$training" 2> /dev/null; do # the signal ends a wait, not the training
    wait "$training" || status=$?
done
if [ "$ended" = yes ] && [ ! -e "$out/record.json" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
