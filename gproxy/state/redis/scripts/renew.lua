-- ARGV: time, owner, maximum. Renews the lease of the owner. Releases at most `maximum` reservations: those of owners
-- whose lease has expired, and those that are older than any call can be. Returns how many.

local LEASE, MAX_AGE = 30 * SECOND, 25 * HOUR
local maximum, released = tonumber(ARGV[3]), 0

renew(ARGV[2])
for _, owner in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
  local has_expired = tonumber(redis.call('ZSCORE', LEASES, owner)) < at - LEASE
  local newest = has_expired and '+inf' or integer(at - MAX_AGE)
  local calls = redis.call('ZRANGEBYSCORE', owner_name(owner), '-inf', newest, 'LIMIT', 0, maximum - released)
  for _, call in ipairs(calls) do
    end_reservation(call, '0')
    redis.call('ZREM', owner_name(owner), call) -- the reservation itself may have expired
  end
  released = released + #calls
  if has_expired and redis.call('EXISTS', owner_name(owner)) == 0 then redis.call('ZREM', LEASES, owner) end
end
return released
