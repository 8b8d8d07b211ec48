"""The training job: rollout core and trainer integrations."""
