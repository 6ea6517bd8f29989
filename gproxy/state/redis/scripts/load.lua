-- ARGV[2]: a JSON document. Returns 1, or 0 if the version is outdated: by a settlement, a `forget` or a new window.

local document = cjson.decode(ARGV[2])
local key = document.account
local version = tonumber(redis.call('HGET', account_name(key), 'version') or 0) + tonumber(epoch())
local account = read_account(key)
if version ~= document.version then return 0 end
if account.loaded and account.window == document.window then return 1 end -- another process loaded it first

local function has_reservation(call)
  return redis.call('HEXISTS', reservation_name(call), 'money:' .. key) == 1
end

if account.window ~= document.window then
  clear(key, document.window)
  -- Adds what is reserved in this window already: the account was in it before, for example if a clock was set back.
  for _, owner in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
    for _, call in ipairs(redis.call('ZRANGE', owner_name(owner), 0, -1)) do
      local reserved = redis.call('HMGET', reservation_name(call), 'window:' .. key, 'money:' .. key)
      if tonumber(reserved[1] or -1) == document.window then add(key, 'held', reserved[2]) end
    end
  end
end
redis.call('HSET', account_name(key), 'used', document.used, 'epoch', epoch(), 'loaded', integer(at))
for _, settled in ipairs(document.settled) do
  local call, money = unpack(settled)
  if not has_reservation(call) then add(key, 'used', money) end
end
for _, running in ipairs(document.running) do
  local call, owner, money = unpack(running)
  local reserved = redis.call('HMGET', reservation_name(call), 'window:' .. key, 'money:' .. key)
  if tonumber(reserved[1] or -1) ~= document.window then
    reserve_money(call, owner, key, document.window, reserved[2] or money)
    redis.call('ZADD', LEASES, 'NX', integer(at), owner)
  end
end
redis.call('EXPIRE', account_name(key), KEEP_S)
return 1
