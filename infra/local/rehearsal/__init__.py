"""Here stands the scripted model: an OpenAI-compatible server that plays YAML scripts, so nobody pays to test.

    python -m infra.local.rehearsal --port 0 --scripts DIR [--scripts DIR]

`scripts` has the format of a script, `stage` decides who plays what, `frames` is the wire, `server` the doors.
"""
