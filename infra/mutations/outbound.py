"""Mutations of the guarded HTTP client, its allow-list and api_call: one rule taken away at a time."""

from infra.mutations.mutation import edits_of, targets

_ROOM = "workers/outbound"
_OFF = "if False:"
_SSRF, _REDIRECTS, _MESSAGES = (f"tests/attacks/test_ssrf{name}.py" for name in ("", "_redirects", "_messages"))
_CLIENT, _BREAKER, _TARGET, _REDACTED = (
    f"tests/outbound/test_{name}.py" for name in ("client", "breaker", "target", "redaction")
)
_TOOL, _LIST, _HOSTS = (
    "tests/tools/test_api_call.py",
    "tests/attacks/test_allow_list.py",
    "tests/database/test_allowed_hosts.py",
)

_URLS = (
    ("length", "if len(url) > MAX_CHARACTERS:", _OFF),
    ("visible ASCII", "if _UNPRINTED.search(url):", _OFF),
    ("ambiguous characters", "if _AMBIGUOUS.search(url):", _OFF),
    ("user name", 'if "@" in authority:', _OFF),
    ("IPv6", 'if "[" in authority or authority.count(":") > 1:', _OFF),
    ("percent in a host", 'if "%" in authority:', _OFF),
    ("port", "if colon and (not _PORT.fullmatch(port) or int(port) > 65_535):", _OFF),
    ("last port", " or int(port) > 65_535", ""),
    ("host", "if fault := host_fault(host):", "if fault := None:"),
    ("percent signs", "if _BAD_PERCENT.search(path + query):", _OFF),
    ("control characters in a path", "if _PERCENT_CONTROL.search(path):", _OFF),
    ("dots", "if _DOTS.search(path):", _OFF),
    ("fragment", 'if "#" in url:', _OFF),
    ("odd redirects", 'if _SCHEME.match(location) and "://" not in location.partition("?")[0]:', _OFF),
    ("characters of a redirect", "    _check_characters(location)\n", ""),
    ("length of a host", 'if len(host.encode(errors="replace")) > 253:', _OFF),
    ("letters of a host", 'if re.search(r"[^a-z0-9.-]", host):', _OFF),
    ("numbers", "if _IP.search(host):", _OFF),
    ("full name", "if not _NAME.fullmatch(host):", _OFF),
    ("inner networks", "if _INNER.search(host):", _OFF),
)
_BLOCKS = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "203.0.113.0/24", "224.0.0.0/4",
    "240.0.0.0/4", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
)  # fmt: skip
_ADDRESSES = (
    *((block, f'"{block}",', "") for block in _BLOCKS),
    ("global IPv6", "address not in _GLOBAL_6 or ", ""),
    ("NAT64", "        return _is_public(inner)\n", "        return True\n"),
    ("ISATAP", " or _is_public(inner)", " or True"),
    ("zones", 'if "%" in text:', _OFF),
)
_NETWORK = (
    ("every answer", "if not all(is_fit(address)", "if not any(is_fit(address)"),
    ("any answer", "if not all(is_fit(address) for address in answers):", _OFF),
    ("localhost", "if target.host == LOOPBACK and not self._may_reach_loopback:", _OFF),
    ("plain HTTP", 'if target.scheme != "https" and target.host != LOOPBACK:', _OFF),
    (
        "loopback by its name",
        "if host == LOOPBACK and self._may_reach_loopback else",
        "if self._may_reach_loopback else",
    ),
    ("peer", "if not peer or not addresses.are_equal(str(peer[0]), address) or peer[1] != route.port:", _OFF),
    ("addresses, not names", "connect_tcp(address, route.port", "connect_tcp(route.host, route.port"),
)
_TRUST = (("certificate", "server_hostname=target.host", "server_hostname='other.example.com'"),)
_REQUEST = (
    ("methods", "if request.method not in METHODS:", _OFF),
    ("bodies where none belongs", "if request.body is not None and request.is_safe:", _OFF),
    ("size of a body", 'if len(request.body or b"") > MAX_BODY_BYTES:', _OFF),
    ("number of headers", "if len(request.headers) > MAX_HEADERS:", _OFF),
    ("names of headers", "if not _NAME.fullmatch(name):", _OFF),
    ("gateways' spelling", '.replace("_", "-")', ""),
    ("headers twice", "if plain in seen:", _OFF),
    ("credentials by hand", "if plain in _SECRET:", _OFF),
    ("metadata", "if plain in _CLOUD or plain.startswith(_CLOUD_BY_BEGINNING):", _OFF),
    ("headers of ours", "if plain in _OURS or plain.startswith(_OURS_BY_BEGINNING):", _OFF),
    ("values of headers", "if len(value) > MAX_VALUE_CHARACTERS or not _VALUE.fullmatch(value):", _OFF),
)
_ANSWER = (
    ("bombs", "if self._kept_bytes + len(piece) > max(_BOMB_BYTES, self._sent_bytes * _BOMB_RATIO):", _OFF),
    ("cap", "self.is_full = len(piece) > room or", "self.is_full ="),
    ("cap of what was sent", " or self._sent_bytes > self._max_bytes", ""),
    (
        "packings",
        'raise OutboundRefused("encoding", "The body is packed in a way',
        'return None  # ("The body is packed in a way',
    ),
    ("contradicting headers", "if len(values) == 1 else None", "if values else None"),
)
_REDIRECT = (
    ("from https to http", 'if answer.target.scheme == "https" and target.scheme != "https":', _OFF),
    ("bodies to other hosts", "if is_elsewhere and not request.is_safe:", _OFF),
    ("headers to other hosts", "request = replace(request, headers=kept)", "pass"),
    ("names of strangers", "return _NAMELESS.get(error.code, str(error))", "return str(error)"),
    ("content after a change of method", "headers=_without_content(request)", "headers=request.headers"),
)
_SENDING = (
    ("allow-list", "if not is_allowed:", _OFF),
    ("request's rules", "        check(request)\n", ""),
    ("credential on its host", "                    journey.inject = None", "                    pass"),
    ("secrets in redirects", "if journey.redaction.text(target.url) != target.url:", _OFF),
    ("secrets in errors", "told = journey.redaction.text(str(error))", "told = str(error)"),
    ("secrets in answers", "answer.redacted(journey.redaction)", "answer"),
    ("number of redirects", "range(self._limits.max_redirects + 1)", "range(60)"),
    ("effects told", "if not first.is_safe:", _OFF),
    ("lost effects", "error.was_sent and not request.is_safe\n", "False\n"),
    ("repeats of effects", "error.may_repeat and (request.is_safe or not error.was_sent)", "error.may_repeat"),
    ("repeats of answered effects", "if request.is_safe and answer.status in _PASSING", "if answer.status in _PASSING"),
    ("a 503 after an effect", "in _COME_BACK if request.is_safe else answer.status == 429", "in _COME_BACK"),
    ("number of attempts", "if pause is None or number >= self._limits.attempts:", "if pause is None or number >= 50:"),
    ("long pauses", "told if told <= self._limits.longest_pause_seconds else None", "0.0"),
    (
        "time of all attempts",
        "return asyncio.get_running_loop().time() + pause + _LEAST_SECONDS < journey.deadline",
        "return True",
    ),
)
_NETWORK_ASKED = (("network's rules", "        self._network.check(target)\n", ""),)
_LEFT_ALONE = (
    ("asked", "if pause := await self._breaker.enter(journey.org_id, target.authority):", _OFF),
    ("failures", "            await self._breaker.failed(journey.org_id, target.authority)\n", ""),
    (
        "a secret that does not come",
        "        except CredentialAway:\n            raise",
        "        except ZeroDivisionError:\n            raise",
    ),
    ("bad answers", "is_failing = answer.status in _FAILING", "is_failing = False"),
)
_SWITCH = (
    ("organisation", "pam:{org_id or 'models'}:breaker:", "pam:breaker:"),
    ("host", ":breaker:{authority}", ":breaker:"),
    ("pause", "if now < shut then return shut - now end", ""),
    ("one at a time", "string.format('%d', now + ARGV[1] * 1000))", "'1')"),
    ("end of its keys", "redis.call('EXPIRE', KEYS[1], ARGV[2])", ""),
    ("Redis away", "_AWAY = (UpstashError, httpx.HTTPError, OSError, TimeoutError)", "_AWAY = (UpstashError,)"),
)
_EXCHANGE = (
    ("parameters of a connection", "if given & injection.query.keys():", _OFF),
    (
        "headers of a connection",
        "if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or name.lower() in _FRAMING:",
        _OFF,
    ),
    (
        "time of an answer",
        "        async with asyncio.timeout_at(deadline):\n",
        "        async with asyncio.timeout(None):\n",
    ),
    ("no kept connection", 'tell("Connection", "close")', "pass"),
    ("keys for effects alone", "if request.idempotency_key and not request.is_safe:", "if request.idempotency_key:"),
)
_REDACTION = (
    ("capitals", "small, kept, start = content.lower(), [], 0", "small, kept, start = content, [], 0"),
    ("hexadecimal", ", raw.hex()", ""),
    ("every byte", ', "".join(f"%{byte:02x}" for byte in raw)', ""),
    ("percent signs", "quote(secret, safe=\"\"), ", ""),
    ("JSON", "    yield json.dumps(secret)[1:-1]\n", ""),
    ("JSON's slashes", "yield json.dumps(secret, ensure_ascii=False)", "json.dumps(secret, ensure_ascii=False)"),
    ("HTML", "    yield html.escape(secret)\n", ""),
    ("base64", "            yield core\n", ""),
    ("base64 for URLs", '            yield core.replace("+", "-").replace("/", "_")\n', ""),
    ("base64 in the middle", "for start in range(3):", "for start in range(1):"),
    ("tail of a cut", "if not is_whole and self._forms:", _OFF),
    ("headers", 'self.content(value.encode("latin-1")).decode("latin-1") if self._forms else value', "value"),
)  # fmt: skip
_CALL = (
    ("unknown outcomes", "if error.was_sent and not request.is_safe:", _OFF),
    ("allow-list", "return await allowed_hosts.is_allowed(context.hold, host, port)", "return True"),
    (
        "call's key",
        "request = _request(args, str(context.call_id))\n    inject",
        "request = _request(args, '')\n    inject",
    ),
    ("origin", ', origin=f"page {_origin(args, answer)}"', ""),
    (
        "origin in the asker's words",
        "asked.page[:200] if answer.target.origin == asked.origin else",
        "answer.target.page or",
    ),
    ("binary", 'if charset is None or b"\\0" in answer.body:', "if charset is None:"),
    ("charsets", "charset = _CHARSETS.get(named)", 'charset = _CHARSETS.get(named, "latin-1")'),
    ("irreversible", "CallEffect.IRREVERSIBLE if args.method", "CallEffect.EXTERNAL if args.method"),
    ("effects before a redirect", "and not answer.is_redirected else None", "else None"),
    ("no connections", "if credentials is None:", "if credentials is None and name != 'billing':"),
)
_STRANGER, _NEVER = "if mine is null then", "if false then"
_FUNCTIONS = (
    ("pam.allow_host", "membership", _STRANGER, _NEVER, _HOSTS),
    ("pam.allow_host", "role", "if mine < 'admin' then", _NEVER, _HOSTS),
    ("pam.allow_host", "rule", "elsif entry.fault is not null then", "elsif false then", _HOSTS),
    ("pam.allow_host", "cap", ">= 200 then", ">= 200000 then", _HOSTS),
    ("pam.allow_host", "cap without a race", "for update", "", _HOSTS),
    ("pam.allow_host", "audit", "not answer ? 'refused'", "true", _HOSTS),
    ("pam.disallow_host", "membership", _STRANGER, _NEVER, _HOSTS),
    ("pam.disallow_host", "role", "if mine < 'admin' then", _NEVER, _HOSTS),
    ("pam.disallow_host", "organisation", "h.org_id = disallow_host.org_id and ", "", _HOSTS),
    ("pam_private.parsed_entry", "host", "when pam_private.host_fault(name) is not null", "when false", _HOSTS),
    ("pam_private.parsed_entry", "star of localhost", "when name = 'localhost' and host <> name", "when false", _HOSTS),
    ("pam_private.parsed_entry", "last port", "when port > 65535", "when false", _HOSTS),
    ("pam_private.host_patterns", "whole parts", "'*.' || array_to_string", "'*' || array_to_string", _LIST),
    ("pam_worker.find_host", "organisation", "h.org_id = run.org_id and ", "", _LIST),
    ("pam_worker.find_host", "port", "h.port = find_host.port and ", "", _LIST),
    ("pam_worker.find_host", "rule", "pam_private.host_fault(find_host.host) is null and ", "", _LIST),
    ("pam_worker.find_host", "audit", "'host.reach', allowed", "'host.reach', true", _LIST),
)  # fmt: skip


TARGETS = targets("allow-list", _FUNCTIONS)
MUTATIONS = (
    *edits_of("outbound URL", f"{_ROOM}/target.py", _URLS, _TARGET),
    *edits_of("outbound address", f"{_ROOM}/addresses.py", _ADDRESSES, _SSRF),
    *edits_of("outbound network", f"{_ROOM}/network.py", _NETWORK, _SSRF),
    *edits_of("outbound client", f"{_ROOM}/client.py", _NETWORK_ASKED, _SSRF),
    *edits_of("outbound TLS", f"{_ROOM}/network.py", _TRUST, _CLIENT),
    *edits_of("outbound request", f"{_ROOM}/request.py", _REQUEST, _MESSAGES),
    *edits_of("outbound answer", f"{_ROOM}/answer.py", _ANSWER, _MESSAGES, _CLIENT),
    *edits_of("outbound redirect", f"{_ROOM}/redirect.py", _REDIRECT, _REDIRECTS, _CLIENT),
    *edits_of("outbound client", f"{_ROOM}/client.py", _SENDING, _REDIRECTS, _MESSAGES, _CLIENT),
    *edits_of("outbound breaker", f"{_ROOM}/client.py", _LEFT_ALONE, _BREAKER),
    *edits_of("outbound breaker", f"{_ROOM}/breaker.py", _SWITCH, _BREAKER),
    *edits_of("outbound exchange", f"{_ROOM}/exchange.py", _EXCHANGE, _REDIRECTS, _MESSAGES, _CLIENT),
    *edits_of("outbound redaction", f"{_ROOM}/redaction.py", _REDACTION, _REDACTED, _REDIRECTS),
    *edits_of("outbound api_call", "workers/tools/api_call.py", _CALL, _TOOL, _LIST),
    *(target.mutation() for target in TARGETS),
)
