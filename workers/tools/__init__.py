"""One file a tool, and the explicit tuple of them. The path that every call takes is in workers/agent."""

from workers.tools import (
    api_call,
    ask_person,
    code_execution,
    database_query,
    file_list,
    file_read,
    file_write,
    log_search,
    openai_api_call,
    redis_get,
    redis_set,
    supabase_migrate,
)
from workers.tools.tool import Tool

TOOLS: tuple[Tool, ...] = (
    file_read.TOOL,
    file_write.TOOL,
    file_list.TOOL,
    database_query.TOOL,
    api_call.TOOL,
    openai_api_call.TOOL,
    log_search.TOOL,
    code_execution.TOOL,
    redis_set.TOOL,
    redis_get.TOOL,
    ask_person.TOOL,
    supabase_migrate.TOOL,
)

# The names a card may list: the contract with its writers. Those not in TOOLS come with later releases.
CARD_TOOLS: tuple[str, ...] = (
    "file_read",
    "file_write",
    "file_list",
    "database_query",
    "supabase_migrate",
    "api_call",
    "openai_api_call",
    "log_search",
    "code_execution",
    "redis_set",
    "redis_get",
    "celery_task",
    "websocket_send",
)
