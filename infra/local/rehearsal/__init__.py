"""Here stands the scripted model: an OpenAI-compatible server that plays YAML scripts, at no cost.

    python -m infra.local.rehearsal --port 0 --scripts DIR [--scripts DIR]

`scripts` has the format of a script, `stage` decides who plays, `frames` is the wire, `server` the doors.
"""
