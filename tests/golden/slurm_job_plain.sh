#!/bin/bash
#SBATCH --job-name=sd-lab-r7-a1-trainer0-g1
#SBATCH --output="/data/runs/r7/a1/trainer0-g1.log"
#SBATCH --open-mode=append
#SBATCH --chdir="/data/runs/r7/a1"
#SBATCH --export=NONE
#SBATCH --no-requeue
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=2048M
#SBATCH --time=60

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
cd -- /data/runs/r7/a1 || code=72
if [ "$code" = 0 ]; then
  env -i LANG=C.UTF-8 "${keep[@]}" \
    SKYDECK_ATTEMPT_FILE=/data/runs/r7/a1/attempt.json \
    SKYDECK_ROLE=trainer \
    /opt/skydeck/bin/python -m workers.training &
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
