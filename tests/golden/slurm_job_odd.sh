#!/bin/bash
#SBATCH --job-name=sd-lab-r7-a1-trainer0-g1
#SBATCH --output="/data/été #1/100%%j.log"
#SBATCH --open-mode=append
#SBATCH --chdir="/data/été #1/100% & more"
#SBATCH --export=NONE
#SBATCH --no-requeue
#SBATCH --comment="run=r7; attempt=1"
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=6000M
#SBATCH --time=2
#SBATCH --partition=gpu_test
#SBATCH --account=rl
#SBATCH --qos=normal
#SBATCH --gres=gpu:mig:1
#SBATCH --constraint="cpu&fast"
#SBATCH --exclude=cpu1,gpu[1-2]

set -u

record=/data/runs/r7/a1/exit.trainer0-g1.json
# Slurm sets the variables of all GPU makers at once; trainers refuse CUDA's beside ROCR's.
keep=()
for name in PATH HOME LANG USER LOGNAME SHELL TMPDIR CUDA_VISIBLE_DEVICES \
  GPU_DEVICE_ORDINAL ZE_AFFINITY_MASK "${!SLURM_@}" "${!SLURMD_@}"; do
  [ -n "${!name+set}" ] && keep+=("$name=${!name}")
done

# The scheduler signals the worker too; a worker must bear being told twice.
worker=
stop=0
trap 'stop=1; [ -z "$worker" ] || kill -TERM "$worker" 2>/dev/null' TERM INT

# Slurm runs the job in /tmp, and calls that success, when it cannot enter --chdir.
code=0
cd -- '/data/été #1/100% & more' || code=72
if [ "$code" = 0 ]; then
  env -i LANG=C.UTF-8 "${keep[@]}" \
    ODD='a '"'"'b'"'"' \ 
 c' \
    '/opt/it'"'"'s here/python' -c 'print("$HOME `id`")
#SBATCH --uid=0' &
  worker=$!
  [ "$stop" = 0 ] || kill -TERM "$worker" 2>/dev/null
  stop=0
  wait "$worker"
  code=$?
  # A trapped signal ends "wait" before the worker has ended.
  while [ "$stop" = 1 ]; do
    stop=0
    wait "$worker"
    again=$?
    [ "$again" = 127 ] || code=$again
  done
fi

if [ ! -e "$record" ]; then
  printf '%s%d}\n' '{"contract_version": 1, "run_id": "r7", "attempt": 1, "role": "trainer", "result": "failed", "detail": "The worker ended without leaving an exit record; its log says why.", "exit_code": ' "$code" >"$record.$$" && mv -f -- "$record.$$" "$record"
fi
exit "$code"
