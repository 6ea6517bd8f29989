-- Every script begins with this. KEYS[1] is the prefix of all keys, ARGV[1] the time in microseconds, '' for Redis's own.
-- Numbers are doubles here, exact to 2^53: so moments are microseconds, and money is added by HINCRBY, exact to 2^63.
-- Only whether a cap of more than nine million dollars has room may be wrong, by a nano-dollar.

local prefix = KEYS[1]
local SECOND, MINUTE, HOUR = 1e6, 60e6, 3600e6
local BUCKETS = 25
local MINUTE_S = 61
local KEEP_S = 26 * 3600 -- longer than a hold or a bucket matters; accounts and limits can be loaded again

local function time()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local now = redis.call('TIME')
  return tonumber(now[1]) * SECOND + tonumber(now[2])
end

local at = time()

local function whole(number)
  return string.format('%.0f', number)
end

local function put(name, value)
  redis.call('SET', name, value, 'EX', KEEP_S)
end

-- An account is a hash; used and held are those of its window. It is loaded while its epoch is the one of all.

local function account_name(key)
  return prefix .. 'account:' .. key
end

local function epoch()
  return redis.call('GET', prefix .. 'epoch') or '0'
end

local function read_account(key)
  local raw = redis.call('HMGET', account_name(key), 'window', 'used', 'held', 'cap', 'epoch', 'loaded')
  return {
    window = tonumber(raw[1]),
    used = raw[2] or '0',
    held = raw[3] or '0',
    cap = tonumber(raw[4]),
    loaded = raw[5] == epoch() and tonumber(raw[6]), -- when
  }
end

local function add(key, field, money)
  redis.call('HINCRBY', account_name(key), field, money)
  redis.call('EXPIRE', account_name(key), KEEP_S)
end

local function subtract(key, field, money)
  if money ~= '0' then add(key, field, '-' .. money) end
end

-- A load that began before this fails.
local function outdate(key)
  add(key, 'version', 1)
end

local function clear(key, window)
  redis.call('HSET', account_name(key), 'window', whole(window), 'used', '0', 'held', '0')
end

local function begin_window(key, window)
  clear(key, window)
  outdate(key)
end

local function forget(key)
  redis.call('HDEL', account_name(key), 'epoch')
  outdate(key)
end

-- Adds money that was spent after that moment and is held nowhere. An account that was loaded later has to be loaded again:
-- whoever did it may have found the money in the books, or not yet.
local function credit(key, window, money, since)
  local account = read_account(key)
  if not account.loaded or account.loaded > since then return forget(key) end
  if account.window > window then return end
  if account.window < window then begin_window(key, window) end
  add(key, 'used', money)
  outdate(key)
end

-- A limit is a packed table of 25 hours of requests and of tokens, the last of them `hour`. If it is not there it has to
-- be loaded. Beside it stand the moments of the last minute's requests and the set of running calls.

local function limit_name(key)
  return prefix .. 'limit:' .. key
end

local function minute_name(key)
  return prefix .. 'minute:' .. key
end

local function running_name(key)
  return prefix .. 'running:' .. key
end

local function advance(buckets, hours)
  for index = 1, BUCKETS do buckets[index] = buckets[index + hours] or 0 end
end

local function read_limit(key)
  local raw = redis.call('GET', limit_name(key))
  if not raw then return nil end
  local limit = cmsgpack.unpack(raw)
  local hours = math.floor(at / HOUR) - limit.hour
  if hours > 0 then -- less than nothing where the clock was set back
    advance(limit.requests, hours)
    advance(limit.tokens, hours)
    limit.hour = limit.hour + hours
  end
  return limit
end

local function write_limit(key, limit)
  put(limit_name(key), cmsgpack.pack(limit))
end

-- Adds to the hour's bucket of `requests` or `tokens`, if it still is one.
local function count(limit, kind, hour, amount)
  local index = BUCKETS - (limit.hour - hour)
  if index >= 1 and index <= BUCKETS then
    limit[kind][index] = math.max(0, limit[kind][index] + amount)
  end
end

local function strike(key, moment, member)
  redis.call('ZADD', minute_name(key), whole(moment), member)
  redis.call('EXPIRE', minute_name(key), MINUTE_S)
end

-- A hold is a hash: the owner and, by account or limit, what is held or counted there. Its owner's list finds it again.

local function hold_name(call)
  return prefix .. 'hold:' .. call
end

local function owner_name(owner)
  return prefix .. 'owner:' .. owner
end

local function write_hold(call, owner, ...)
  redis.call('HSET', hold_name(call), 'owner', owner, ...)
  redis.call('EXPIRE', hold_name(call), KEEP_S)
  redis.call('ZADD', owner_name(owner), 'NX', whole(at), call)
  redis.call('EXPIRE', owner_name(owner), KEEP_S)
end

local function hold_money(call, owner, key, window, money)
  add(key, 'held', money)
  write_hold(call, owner, 'window:' .. key, whole(window), 'money:' .. key, money)
end

local function hold_limit(call, owner, key, hour, tokens)
  redis.call('SADD', running_name(key), call)
  redis.call('EXPIRE', running_name(key), KEEP_S)
  write_hold(call, owner, 'hour:' .. key, whole(hour), 'tokens:' .. key, whole(tokens))
end

local function read_hold(call)
  local hold, raw = {}, redis.call('HGETALL', hold_name(call))
  for i = 1, #raw, 2 do hold[raw[i]] = raw[i + 1] end
  return hold
end

local function end_money(key, window, held, money)
  if read_account(key).window == tonumber(window) then
    subtract(key, 'held', held)
    add(key, 'used', money)
  end
  outdate(key)
end

local function end_limit(call, key, hour, counted, tokens)
  redis.call('SREM', running_name(key), call)
  local limit = tokens and read_limit(key)
  if limit then
    count(limit, 'tokens', tonumber(hour), tokens - tonumber(counted))
    write_limit(key, limit)
  end
end

-- Without tokens what was counted stays.
local function end_hold(call, money, tokens)
  local hold = read_hold(call)
  if not hold.owner then return end
  for field, value in pairs(hold) do
    local kind, key = string.match(field, '^(%a+):(.*)$')
    if kind == 'money' then
      end_money(key, hold['window:' .. key], value, money)
    elseif kind == 'tokens' then
      end_limit(call, key, hold['hour:' .. key], value, tokens)
    end
  end
  redis.call('DEL', hold_name(call))
  redis.call('ZREM', owner_name(hold.owner), call)
end

-- When each owner last said that it lives.

local LEASES = prefix .. 'leases'

local function renew(owner)
  redis.call('ZADD', LEASES, whole(at), owner)
  redis.call('EXPIRE', LEASES, KEEP_S)
end
