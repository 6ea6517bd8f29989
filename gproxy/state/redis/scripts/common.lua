-- Every script begins with this file. KEYS[1] is the prefix of all keys; ARGV[1] is the time in microseconds, or '' for
-- Redis's own time. Lua's numbers are doubles, exact to 2^53: so moments are in microseconds, and money is added by
-- HINCRBY, exact to 2^63. Only the check of a cap above nine million dollars may be wrong, by a nano-dollar.

local prefix = KEYS[1]
local SECOND, MINUTE, HOUR = 1e6, 60e6, 3600e6
local BUCKETS = 25
local MINUTE_S = 61
local KEEP_S = 26 * 3600 -- longer than a reservation or a bucket is needed; accounts and limits can be loaded again

local function time()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local now = redis.call('TIME')
  return tonumber(now[1]) * SECOND + tonumber(now[2])
end

local at = time()

local function integer(number)
  return string.format('%.0f', number)
end

local function put(name, value)
  redis.call('SET', name, value, 'EX', KEEP_S)
end

-- An account is a hash; `used` and `held` (reserved) are those of its window. It is loaded if its epoch is current.

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
    reserved = raw[3] or '0',
    cap = tonumber(raw[4]),
    loaded = raw[5] == epoch() and tonumber(raw[6]), -- moment of the load
  }
end

local function add(key, field, money)
  redis.call('HINCRBY', account_name(key), field, money)
  redis.call('EXPIRE', account_name(key), KEEP_S)
end

local function subtract(key, field, money)
  if money ~= '0' then add(key, field, '-' .. money) end
end

-- Makes a load fail that read the version before.
local function increment_version(key)
  add(key, 'version', 1)
end

local function clear(key, window)
  redis.call('HSET', account_name(key), 'window', integer(window), 'used', '0', 'held', '0')
end

local function begin_window(key, window)
  clear(key, window)
  increment_version(key)
end

local function forget(key)
  redis.call('HDEL', account_name(key), 'epoch')
  increment_version(key)
end

-- Adds money that was spent after `since` without a reservation here. An account that was loaded after `since` must be
-- loaded again: that load may have read the money from the journal or the database, or not.
local function credit(key, window, money, since)
  local account = read_account(key)
  if not account.loaded or account.loaded > since then return forget(key) end
  if account.window > window then return end
  if account.window < window then begin_window(key, window) end
  add(key, 'used', money)
  increment_version(key)
end

-- A limit is a packed table with the requests and the tokens of 25 hours, the last of which is `hour`. If it is missing
-- it must be loaded. Two more keys have the moments of the last minute's requests and the set of running calls.

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
  if hours > 0 then -- negative if the clock was set back
    advance(limit.requests, hours)
    advance(limit.tokens, hours)
    limit.hour = limit.hour + hours
  end
  return limit
end

local function write_limit(key, limit)
  put(limit_name(key), cmsgpack.pack(limit))
end

-- Adds to the bucket of `requests` or `tokens` of an hour, if it is one of the 25.
local function add_to_hour(limit, kind, hour, amount)
  local index = BUCKETS - (limit.hour - hour)
  if index >= 1 and index <= BUCKETS then
    limit[kind][index] = math.max(0, limit[kind][index] + amount)
  end
end

local function add_moment(key, moment, member)
  redis.call('ZADD', minute_name(key), integer(moment), member)
  redis.call('EXPIRE', minute_name(key), MINUTE_S)
end

-- A reservation is a hash: its owner, and what is reserved or counted by account and limit. Its owner's set lists it.

local function reservation_name(call)
  return prefix .. 'hold:' .. call
end

local function owner_name(owner)
  return prefix .. 'owner:' .. owner
end

local function write_reservation(call, owner, ...)
  redis.call('HSET', reservation_name(call), 'owner', owner, ...)
  redis.call('EXPIRE', reservation_name(call), KEEP_S)
  redis.call('ZADD', owner_name(owner), 'NX', integer(at), call)
  redis.call('EXPIRE', owner_name(owner), KEEP_S)
end

local function reserve_money(call, owner, key, window, money)
  add(key, 'held', money)
  write_reservation(call, owner, 'window:' .. key, integer(window), 'money:' .. key, money)
end

local function reserve_limit(call, owner, key, hour, tokens)
  redis.call('SADD', running_name(key), call)
  redis.call('EXPIRE', running_name(key), KEEP_S)
  write_reservation(call, owner, 'hour:' .. key, integer(hour), 'tokens:' .. key, integer(tokens))
end

local function read_reservation(call)
  local reservation, raw = {}, redis.call('HGETALL', reservation_name(call))
  for i = 1, #raw, 2 do reservation[raw[i]] = raw[i + 1] end
  return reservation
end

local function end_money(key, window, reserved, money)
  if read_account(key).window == tonumber(window) then
    subtract(key, 'held', reserved)
    add(key, 'used', money)
  end
  increment_version(key)
end

local function end_limit(call, key, hour, counted, tokens)
  redis.call('SREM', running_name(key), call)
  local limit = tokens and read_limit(key)
  if limit then
    add_to_hour(limit, 'tokens', tonumber(hour), tokens - tonumber(counted))
    write_limit(key, limit)
  end
end

-- With `tokens` nil the tokens that were counted stay.
local function end_reservation(call, money, tokens)
  local reservation = read_reservation(call)
  if not reservation.owner then return end
  for field, value in pairs(reservation) do
    local kind, key = string.match(field, '^(%a+):(.*)$')
    if kind == 'money' then
      end_money(key, reservation['window:' .. key], value, money)
    elseif kind == 'tokens' then
      end_limit(call, key, reservation['hour:' .. key], value, tokens)
    end
  end
  redis.call('DEL', reservation_name(call))
  redis.call('ZREM', owner_name(reservation.owner), call)
end

-- The moment at which each owner last renewed its lease.

local LEASES = prefix .. 'leases'

local function renew(owner)
  redis.call('ZADD', LEASES, integer(at), owner)
  redis.call('EXPIRE', LEASES, KEEP_S)
end
