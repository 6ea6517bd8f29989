-- ARGV: time, owner, how many holds to free at most. The owner lives. Holds of owners that are silent are freed, and those
-- that are older than any call gets. Answers how many.

local SILENT, OLD = 30 * SECOND, 25 * HOUR
local most, freed = tonumber(ARGV[3]), 0

renew(ARGV[2])
for _, owner in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
  local is_silent = tonumber(redis.call('ZSCORE', LEASES, owner)) < at - SILENT
  local newest = is_silent and '+inf' or whole(at - OLD)
  local calls = redis.call('ZRANGEBYSCORE', owner_name(owner), '-inf', newest, 'LIMIT', 0, most - freed)
  for _, call in ipairs(calls) do
    end_hold(call, '0')
    redis.call('ZREM', owner_name(owner), call) -- the hold itself may have expired
  end
  freed = freed + #calls
  if is_silent and redis.call('EXISTS', owner_name(owner)) == 0 then redis.call('ZREM', LEASES, owner) end
end
return freed
