"""The prepare stage: turns a job's sources into shards (no models, no losses)."""
