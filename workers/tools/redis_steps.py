"""The atomic steps of an organisation's corner of Redis, in Redis' own Lua: a write with its ledger, a look, a page.

Beside its values a corner keeps what it holds: `names` (values in order of their bytes), `sizes` (bytes of each value
and mark) with `ends` (when each is over), and `used` (their sum). What is over gives its room back at the next write.
"""

# KEYS: value, mark of the call, names, sizes, ends, used.
# ARGV: act, value, seconds, is the time given, the key, the call, mark seconds, max keys, max bytes, ledger seconds,
#       overhead of an entry, the share of the server's memory (percent) beyond which nothing is written.
# A repeat answers the first outcome. What is refused leaves no trace.
WRITE = """
local seen = redis.call('GET', KEYS[2])
if seen then return seen end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local overhead = tonumber(ARGV[11])

local function forget(entry)
  redis.call('DECRBY', KEYS[6], redis.call('HGET', KEYS[4], entry) or 0)
  redis.call('HDEL', KEYS[4], entry)
  redis.call('ZREM', KEYS[5], entry)
  if string.sub(entry, 1, 1) == 'v' then redis.call('ZREM', KEYS[3], string.sub(entry, 2)) end
end
local function note(entry, size, milliseconds)
  redis.call('INCRBY', KEYS[6], size - (redis.call('HGET', KEYS[4], entry) or 0))
  redis.call('HSET', KEYS[4], entry, size)
  redis.call('ZADD', KEYS[5], now + milliseconds, entry)
end
local over
repeat
  over = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now, 'LIMIT', 0, 500)
  for _, entry in ipairs(over) do forget(entry) end
until #over < 500

local old = redis.call('GET', KEYS[1])
if ARGV[1] == 'if_absent' and old then return cjson.encode({written = false}) end
if ARGV[1] == 'increment' and old and not string.match(old, '^-?%d+$') then
  return cjson.encode({refused = 'The value is no whole number: it cannot be counted up.'})
end

local entry, mark = 'v' .. ARGV[5], 'c' .. ARGV[6]
local value_bytes = overhead + #ARGV[5] + (ARGV[1] == 'increment' and 20 or #ARGV[2])
local mark_bytes = overhead + #KEYS[2] + 40
local held = tonumber(redis.call('HGET', KEYS[4], entry) or 0)
local used = tonumber(redis.call('GET', KEYS[6]) or 0)
local grows = value_bytes - held + mark_bytes
if held == 0 and redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[8]) then return cjson.encode({full = 'keys'}) end
if grows > 0 and used + grows > tonumber(ARGV[9]) then return cjson.encode({full = 'bytes', used = used}) end
local memory = redis.pcall('INFO', 'memory')
if type(memory) == 'string' and grows > 0 then
  local taken, most = string.match(memory, 'used_memory:(%d+)'), string.match(memory, 'maxmemory:(%d+)')
  if taken and most and tonumber(most) > 0 and taken * 100 >= most * ARGV[12] then
    return cjson.encode({full = 'server'})
  end
end

local outcome
if ARGV[1] == 'increment' then
  local sum = redis.pcall('INCRBY', KEYS[1], ARGV[2])
  if type(sum) == 'table' then
    return cjson.encode({refused = 'The counter would pass what 64 bits hold.'})
  end
  if redis.call('TTL', KEYS[1]) < 0 or ARGV[4] == 'given' then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
  outcome = cjson.encode({value = redis.call('GET', KEYS[1])})
else
  redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
  outcome = cjson.encode({written = true})
end
redis.call('SET', KEYS[2], outcome, 'EX', ARGV[7])
redis.call('ZADD', KEYS[3], 0, ARGV[5])
note(entry, value_bytes, redis.call('PTTL', KEYS[1]))
note(mark, mark_bytes, ARGV[7] * 1000)
for place = 3, 6 do redis.call('EXPIRE', KEYS[place], ARGV[10]) end
return outcome
"""

# KEYS: value. The value and the seconds it has left, seen in one instant.
LOOK = """
return {redis.call('GET', KEYS[1]), redis.call('TTL', KEYS[1])}
"""

# KEYS: names. ARGV: prefix, the last name given before ('' at the beginning), how many.
PAGE = """
local from = ARGV[2] == '' and '[' .. ARGV[1] or '(' .. ARGV[2]
return redis.call('ZRANGEBYLEX', KEYS[1], from, '[' .. ARGV[1] .. '\\255', 'LIMIT', 0, ARGV[3])
"""
