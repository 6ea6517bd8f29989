-- ARGV[2]: a JSON document. Answers 1; or 0, if somebody settled meanwhile, forgot the account or began another window.

local asked = cjson.decode(ARGV[2])
local key = asked.account
local version = tonumber(redis.call('HGET', account_name(key), 'version') or 0) + tonumber(epoch())
local account = read_account(key)
if version ~= asked.version then return 0 end
if account.loaded and account.window == asked.window then return 1 end -- somebody was faster

local function is_held(call)
  return redis.call('HEXISTS', hold_name(call), 'money:' .. key) == 1
end

if account.window ~= asked.window then
  clear(key, asked.window)
  -- What is held in this window already: the account was in it before, as when a clock was set back.
  for _, owner in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
    for _, call in ipairs(redis.call('ZRANGE', owner_name(owner), 0, -1)) do
      local held = redis.call('HMGET', hold_name(call), 'window:' .. key, 'money:' .. key)
      if tonumber(held[1] or -1) == asked.window then add(key, 'held', held[2]) end
    end
  end
end
redis.call('HSET', account_name(key), 'used', asked.used, 'epoch', epoch(), 'loaded', whole(at))
for _, settled in ipairs(asked.settled) do
  local call, money = unpack(settled)
  if not is_held(call) then add(key, 'used', money) end
end
for _, running in ipairs(asked.running) do
  local call, owner, money = unpack(running)
  local held = redis.call('HMGET', hold_name(call), 'window:' .. key, 'money:' .. key)
  if tonumber(held[1] or -1) ~= asked.window then
    hold_money(call, owner, key, asked.window, held[2] or money)
    redis.call('ZADD', LEASES, 'NX', whole(at), owner)
  end
end
redis.call('EXPIRE', account_name(key), KEEP_S)
return 1
