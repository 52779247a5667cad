"""What both sides stand on: settings, errors, telemetry, the two gateways, the queue and the ledger.

It imports nothing of PAM beyond itself, and neither openai, rq nor boto3 at import time.
"""
