#!/bin/bash
# Lines "export NAME=value" on stdout go into the task's environment. Slurm renumbers
# CUDA_VISIBLE_DEVICES from 0 in each job, so the MIG name comes from the node's own index.
gpus="${SLURM_STEP_GPUS:-${SLURM_JOB_GPUS:-}}"
[ -n "$gpus" ] && [ -n "${CUDA_VISIBLE_DEVICES:-}" ] || exit 0
names=
for index in ${gpus//,/ }; do
  name=$(awk -v n="$SLURMD_NODENAME" -v i="$index" '$1==n && $2==i {print $3}' @DIR@/etc/mig_map)
  names="${names:+$names,}${name:-$index}"
done
echo "export CUDA_VISIBLE_DEVICES=$names"
