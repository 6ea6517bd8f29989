-- ARGV[2]: a JSON document with accounts and limits and, for a take, call, owner, money and tokens. Checks all accounts
-- and limits, and then counts in all or in none. Returns one of:
-- `elsewhen`, time: the time is outside of a window in the document;
-- `unknown`, time, keys of the accounts and limits that must be loaded;
-- `standing`, time, position of the status that refused (0 if the call has room), then for each account used and
-- reserved money, then for each counter its count and the moments at which it is empty and has room again (-1: never).

local document = cjson.decode(ARGV[2])

for _, account in ipairs(document.accounts) do
  if at < account.start * SECOND or (account.finish and at >= account.finish * SECOND) then
    return { 'elsewhen', at }
  end
end

local unknown = { 'unknown', at }
for _, account in ipairs(document.accounts) do
  account.found = read_account(account.key)
  if not account.found.loaded or account.found.window > account.start then table.insert(unknown, account.key) end
end
for _, limit in ipairs(document.limits) do
  limit.found = read_limit(limit.key)
  if not limit.found then table.insert(unknown, limit.key) end
end
if #unknown > 2 then return unknown end

-- Each of these functions returns for one counter: whether it is full (only if `is_test`: before a take), its count,
-- and the moments at which it is empty again and has room again.

local function minute(key, maximum, is_test)
  local name = minute_name(key)
  redis.call('ZREMRANGEBYSCORE', name, '-inf', integer(at - MINUTE))
  redis.call('ZREMRANGEBYSCORE', name, '(' .. integer(at + MINUTE), '+inf') -- the clock was far ahead
  local moments = redis.call('ZCARD', name)
  local function expires_at(index)
    return tonumber(redis.call('ZRANGE', name, index, index, 'WITHSCORES')[2]) + MINUTE
  end
  local empty_at = moments > 0 and expires_at(-1) or at
  if not is_test or moments < maximum then return false, moments, empty_at, at end
  return true, moments, empty_at, maximum > 0 and expires_at(moments - maximum) or -1
end

local function day(limit, kind, maximum, is_test, cost)
  local total, empty_at = 0, at
  for index, amount in ipairs(limit[kind]) do
    total = total + amount
    if amount > 0 then empty_at = (limit.hour + index) * HOUR end
  end
  local lacking = is_test and total + cost - maximum or 0
  if not is_test or (lacking <= 0 and maximum > 0) then return false, total, empty_at, at end
  if maximum == 0 or cost > maximum then return true, total, empty_at, -1 end
  for index, amount in ipairs(limit[kind]) do
    lacking = lacking - amount
    if lacking <= 0 then return true, total, empty_at, (limit.hour + index) * HOUR end
  end
end

local function running(key, maximum, is_test)
  local calls = redis.call('SCARD', running_name(key))
  local is_full = is_test and calls >= maximum
  return is_full, calls, calls > 0 and -1 or at, is_full and (maximum > 0 and at + SECOND or -1) or at
end

local function statuses(is_test)
  local reply, position = { 'standing', at, 0 }, 0
  local function append(is_full, ...)
    position = position + 1
    if is_full and reply[3] == 0 then reply[3] = position end
    for _, value in ipairs({ ... }) do table.insert(reply, value) end
  end
  for _, account in ipairs(document.accounts) do
    local found = read_account(account.key)
    if found.window < account.start then found.used, found.reserved = '0', '0' end
    local wanted = is_test and tonumber(found.used) + tonumber(found.reserved) + tonumber(document.money) or 0
    append(is_test and wanted > tonumber(account.cap), found.used, found.reserved)
  end
  for _, limit in ipairs(document.limits) do
    if limit.rpm then append(minute(limit.key, limit.rpm, is_test)) end
    if limit.rpd then append(day(limit.found, 'requests', limit.rpd, is_test, 1)) end
    if limit.total_tokens then append(day(limit.found, 'tokens', limit.total_tokens, is_test, document.tokens)) end
    if limit.concurrency then append(running(limit.key, limit.concurrency, is_test)) end
  end
  return reply
end

if not document.call then return statuses(false) end
local tested = statuses(true)
if tested[3] > 0 then return tested end

for _, account in ipairs(document.accounts) do
  if account.found.window < account.start then begin_window(account.key, account.start) end
  redis.call('HSET', account_name(account.key), 'cap', account.cap)
  reserve_money(document.call, document.owner, account.key, account.start, document.money)
end
for _, limit in ipairs(document.limits) do
  if limit.rpm then add_moment(limit.key, at, document.call) end
  add_to_hour(limit.found, 'requests', limit.found.hour, 1)
  if limit.total_tokens or limit.concurrency then -- only these need a settlement
    add_to_hour(limit.found, 'tokens', limit.found.hour, document.tokens)
    reserve_limit(document.call, document.owner, limit.key, limit.found.hour, document.tokens)
  end
  write_limit(limit.key, limit.found)
end
renew(document.owner)
return statuses(false)
