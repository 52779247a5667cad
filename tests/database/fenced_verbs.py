"""Every verb of a worker that takes a fence, with arguments that fit."""

from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from tests.database.world import BROKEN, custom, step
from tests.support.database import Database


def verbs(database: Database, run: UUID, fence: int, planned: UUID) -> dict[str, Any]:
    """Every verb that takes a fence, ready to be awaited. Those whose order matters come last."""
    held = {"run_id": run, "fence": fence}
    asking = {
        "read_conversation": {},
        "take_messages": {},
        "append_events": {"events": [custom()]},
        "list_files": {},
        "search_files": {"pattern": "x", "paths": ("a",), "max_lines": 5},
        "read_file": {"path": "a"},
        "write_file": {"call": uuid4(), "path": "a", "content": "eA==", "expected_version": 0},
        "find_write": {"call": uuid4()},
        "open_connection": {"call": planned, "name": "billing", "host": "api.example.com"},
        "connection_terms": {"name": "billing"},
        "note_connection_fault": {"call": planned, "connection": planned, "code": "x"},
        "lease_token": {"connection": planned, "version": 1, "lease": planned},
        "drop_token": {"connection": planned, "number": 1},
        "describe_tables": {},
        "describe_functions": {},
        "find_row_functions": {"names": ("f",)},
        "find_host": {"host": "api.example.com", "port": 443},
        "schema_state": {},
        "propose_change": {"call": uuid4(), "name": "a", "sql": "x", "findings": [], "acknowledged": {}},
        "read_change": {"change": uuid4()},
        "request_check": {"change": uuid4()},
        "approve_change": {"call": uuid4(), "change": uuid4(), "sql_sha256": "x"},
        "export_change": {"call": uuid4(), "change": uuid4()},
        "submit_job": {"call": planned, "job": {"task": "redis_get", "arguments": {"key": "a"}}},
        "read_job": {"job": uuid4()},
        "list_jobs": {},
        "cancel_job": {"job": uuid4()},
        "retry_job": {"call": planned, "job": uuid4()},
        "send_message": {"call": planned, "topic": "org:x", "event": "e", "payload": {}},
        "read_statements": {},
        "begin_step": {
            "input_tokens": 9,
            "output_tokens": 999,
            "input_usd": Decimal("0.001"),
            "output_usd": Decimal("0.00001"),
        },
        "record_step": {"step": step(2), "calls": [], "events": []},
        "begin_call": {"id": planned},
        "interrupt_run": {"asks": [{"id": str(planned)}], "events": []},
        "read_output": {"call": uuid4(), "first_character": 1, "max_characters": 9},
        "finish_call": {"id": planned, "status": "failed", "result": "x", "events": []},
        "preview_message": {"preview": {"text": "x"}},
        "postpone_run": {"seconds": 1, "events": []},
        "release_run": {},
        "finish_run": {"status": "failed", "reason": "x", "events": [BROKEN]},
    }
    return {name: lambda name=name, more=more: database.worker(name, **held, **more) for name, more in asking.items()}
