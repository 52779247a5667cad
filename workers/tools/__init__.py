"""One file a tool, and the explicit tuple of them. The path that every call takes is in workers/agent."""

from workers.tools import (
    api_call,
    ask_person,
    celery_task,
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
    websocket_send,
)
from workers.tools.tool import Arguments, Tool

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
    celery_task.TOOL,
    websocket_send.TOOL,
    ask_person.TOOL,
    supabase_migrate.TOOL,
)

# What a job may be planned for: its arguments are checked when it is submitted.
REGISTERED: dict[str, type[Arguments]] = {
    tool.name: tool.arguments for tool in TOOLS if not tool.is_conduct and tool is not celery_task.TOOL
}

# The names a card may list: the contract with its writers.
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
