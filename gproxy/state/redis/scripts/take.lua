-- ARGV[2]: a JSON document with accounts and limits and, unless it only looks, call, owner, money and tokens. Tests all of
-- them, and then counts in all or in none. Answers `elsewhen` and the time, if that lies outside a window it was given;
-- `unknown`, the time and the keys of what has to be loaded; or `standing`, the time, the number of the one that refused
-- (0: none), then used and held of each account, then count, end and room of each counter, as moments, -1 for never.

local asked = cjson.decode(ARGV[2])

for _, account in ipairs(asked.accounts) do
  if at < account.start * SECOND or (account.finish and at >= account.finish * SECOND) then
    return { 'elsewhen', at }
  end
end

local unknown = { 'unknown', at }
for _, account in ipairs(asked.accounts) do
  account.found = read_account(account.key)
  if not account.found.loaded or account.found.window > account.start then table.insert(unknown, account.key) end
end
for _, limit in ipairs(asked.limits) do
  limit.found = read_limit(limit.key)
  if not limit.found then table.insert(unknown, limit.key) end
end
if #unknown > 2 then return unknown end

-- Each counter, before a take (is_test) or otherwise: whether it is full, how much is in it, when it is empty again, and
-- when there is room.

local function minute(key, most, is_test)
  local name = minute_name(key)
  redis.call('ZREMRANGEBYSCORE', name, '-inf', whole(at - MINUTE))
  redis.call('ZREMRANGEBYSCORE', name, '(' .. whole(at + MINUTE), '+inf') -- the clock was far ahead
  local moments = redis.call('ZCARD', name)
  local function leaves(index)
    return tonumber(redis.call('ZRANGE', name, index, index, 'WITHSCORES')[2]) + MINUTE
  end
  local ends = moments > 0 and leaves(-1) or at
  if not is_test or moments < most then return false, moments, ends, at end
  return true, moments, ends, most > 0 and leaves(moments - most) or -1
end

local function day(limit, kind, most, is_test, cost)
  local sum, ends = 0, at
  for index, amount in ipairs(limit[kind]) do
    sum = sum + amount
    if amount > 0 then ends = (limit.hour + index) * HOUR end
  end
  local lacking = is_test and sum + cost - most or 0
  if not is_test or (lacking <= 0 and most > 0) then return false, sum, ends, at end
  if most == 0 or cost > most then return true, sum, ends, -1 end
  for index, amount in ipairs(limit[kind]) do
    lacking = lacking - amount
    if lacking <= 0 then return true, sum, ends, (limit.hour + index) * HOUR end
  end
end

local function running(key, most, is_test)
  local calls = redis.call('SCARD', running_name(key))
  local is_full = is_test and calls >= most
  return is_full, calls, calls > 0 and -1 or at, is_full and (most > 0 and at + SECOND or -1) or at
end

local function standing(is_test)
  local answer, told = { 'standing', at, 0 }, 0
  local function tell(is_full, ...)
    told = told + 1
    if is_full and answer[3] == 0 then answer[3] = told end
    for _, value in ipairs({ ... }) do table.insert(answer, value) end
  end
  for _, account in ipairs(asked.accounts) do
    local found = read_account(account.key)
    if found.window < account.start then found.used, found.held = '0', '0' end
    local wanted = is_test and tonumber(found.used) + tonumber(found.held) + tonumber(asked.money) or 0
    tell(is_test and wanted > tonumber(account.cap), found.used, found.held)
  end
  for _, limit in ipairs(asked.limits) do
    if limit.rpm then tell(minute(limit.key, limit.rpm, is_test)) end
    if limit.rpd then tell(day(limit.found, 'requests', limit.rpd, is_test, 1)) end
    if limit.total_tokens then tell(day(limit.found, 'tokens', limit.total_tokens, is_test, asked.tokens)) end
    if limit.concurrency then tell(running(limit.key, limit.concurrency, is_test)) end
  end
  return answer
end

if not asked.call then return standing(false) end
local tested = standing(true)
if tested[3] > 0 then return tested end

for _, account in ipairs(asked.accounts) do
  if account.found.window < account.start then begin_window(account.key, account.start) end
  redis.call('HSET', account_name(account.key), 'cap', account.cap)
  hold_money(asked.call, asked.owner, account.key, account.start, asked.money)
end
for _, limit in ipairs(asked.limits) do
  if limit.rpm then strike(limit.key, at, asked.call) end
  count(limit.found, 'requests', limit.found.hour, 1)
  if limit.total_tokens or limit.concurrency then -- what a settlement corrects or frees, only where that is limited
    count(limit.found, 'tokens', limit.found.hour, asked.tokens)
    hold_limit(asked.call, asked.owner, limit.key, limit.found.hour, asked.tokens)
  end
  write_limit(limit.key, limit.found)
end
renew(asked.owner)
return standing(false)
