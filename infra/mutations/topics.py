"""Mutations of live topics: each condition of who hears and who sends, and of what may be sent, taken out alone."""

from infra.mutations.mutation import Edit, Mutation, targets

_TOPICS = ("tests/attacks/test_topics.py",)
_VERB = "pam_worker.send_message"

# function, what is taken away, its text, what takes its place
_FUNCTIONS = (
    ("pam_private.is_topic", "end of the name", "{12}$'", "{12}'"),
    ("pam_private.is_topic", "beginning of the name", "'^(org|thread|user):", "'(org|thread|user):"),
    ("pam_private.is_topic", "lower case", "topic ~ '", "topic ~* '"),
    ("pam_private.may_hear", "membership", "where m.org_id = about and m.user_id = person)", "where m.org_id = about)"),
    ("pam_private.may_hear", "the thread's members", "where m.user_id = person and t.id = about", "where t.id = about"),
    ("pam_private.may_hear", "one's own topic", "else about = person end", "else true end"),
    (
        "pam_private.may_send",
        "role in the organisation",
        "m.org_id = about and m.user_id = person and m.role >= 'developer'",
        "m.org_id = about and m.user_id = person",
    ),
    (
        "pam_private.may_send",
        "role for a thread",
        "m.user_id = person and m.role >= 'developer' and t.id = about",
        "m.user_id = person and t.id = about",
    ),
    (
        "pam_private.may_send",
        "role for a colleague",
        "m.user_id = person and m.role >= 'developer' and o.user_id = about",
        "m.user_id = person and o.user_id = about",
    ),
    ("pam_private.is_topic_of", "the organisation", "when 'org' then about = org", "when 'org' then true"),
    ("pam_private.is_topic_of", "the thread's organisation", "t.org_id = org and t.id = about", "t.id = about"),
    ("pam_private.is_topic_of", "the person's membership", "m.org_id = org and m.user_id = about", "m.user_id = about"),
    (_VERB, "recorded intent", "and c.status = 'started') then", ") then"),
    (_VERB, "the call's own tool", "and c.tool = 'websocket_send' ", ""),
    (_VERB, "the call's own run", "c.run_id = run.id and c.id = send_message.call", "c.id = send_message.call"),
    (_VERB, "once per call", "s.org_id = run.org_id and s.call_id = send_message.call) then", "false) then"),
    (_VERB, "the run's organisation", " and pam_private.is_topic_of(told, run.org_id))", ")"),
    (_VERB, "an event's name", "!~ '^[a-z][a-z0-9_.:-]{0,62}$'", "= 'x'"),
    (_VERB, "reserved words", "send_message.event in ('job', 'events', 'preview') or ", ""),
    (_VERB, "reserved families", "(pam|phx|system|presence|postgres_changes|broadcast)", "(nothing)"),
    (_VERB, "size", "elsif size > 65536 then", "elsif false then"),
    (_VERB, "depth", "'strict $.**{17}'", "'strict $.**{99}'"),
    (_VERB, "allowance", ">= 120 then", ">= 120000 then"),
    (_VERB, "whether it was taken", "and m.payload ->> 'id' = send_message.call::text) then", ") and false then"),
)
TARGETS = targets("check taken out of", _FUNCTIONS, _TOPICS)
MUTATIONS: tuple[Mutation, ...] = (
    *(target.mutation() for target in TARGETS),
    Mutation(
        "websocket_send counted as a write",
        Edit("workers/tools/websocket_send.py", "effect=CallEffect.EXTERNAL", "effect=CallEffect.WRITE"),
        _TOPICS,
    ),
)
